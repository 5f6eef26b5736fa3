"""A model's URI, as a person writes it, becomes a pinned model: a version, a digest, and a verified local copy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime import cache, files, registry
from sparkscore.runtime.admission import admit
from sparkscore.runtime.loading import read_signature
from sparkscore.runtime.mlmodel import Package, assert_recorded, read_package
from sparkscore.runtime.onnx_file import ExternalData, external_data
from sparkscore.spec.scoring import ModelFile, ModelRef

__all__ = ["PinnedModel", "pin"]

_MAX_PATH = 1024
ENCODERS = "encoders"  # folder of the manifest that holds tokenizers, vocabularies and labels


@dataclass(frozen=True)
class PinnedModel:
    """A model pinned to bytes, with the folder of this machine that holds them.

    `encoder_paths` maps an encoder's file, as the pipeline names it, to its path in that folder; `flags` are those of
    the model's admission.
    """

    ref: ModelRef
    folder: Path
    encoder_paths: Mapping[str, str]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """The folder that holds a model's files, as the driver reads it, and the URI that a person wrote for it."""

    folder: str
    uri: str
    allow_links: bool

    def copied(self, name: str, fresh: Path) -> ModelFile:
        """Copy one file as a regular file; a missing one raises FileNotFoundError."""
        size, sha256 = cache.copy_hashed(self._inside(name), fresh / name)
        return ModelFile(name, size, sha256)

    def _inside(self, name: str) -> str:
        place = f"{self.folder.rstrip('/')}/{name}"
        local = files.local_path(place)
        if local is None:
            return place
        real, root = Path(os.path.realpath(local)), os.path.realpath(files.local_path(self.folder) or "")
        if not (self.allow_links or real.is_relative_to(root)):
            raise error(
                "SPS-MODEL-LINK",
                f"Expected {name} inside the model's folder. Got a symbolic link to {real}.",
                "Copy the file into the folder, or set model.allow_links: true when you trust the link.",
                model=self.uri,
            )
        return str(real)


def pin(uri: str, *, encoder_files: Mapping[str, str] | None = None, allow_links: bool = False) -> PinnedModel:
    """Resolve a URI once, copy every file of the model into the node's cache, hashed in the same pass, and admit it.

    Parameters
    ----------
    uri : str
        A path or URI of an ONNX file, of a folder with exactly one, or of an MLflow package; ``models:/name@alias``,
        ``models:/name/7``, ``runs:/id/path``.
    encoder_files : mapping of str to str, optional
        Name as written in the pipeline -> path or URI. They become part of the model's identity.
    allow_links : bool
        Follow symbolic links that leave the model's folder.

    Returns
    -------
    PinnedModel
        `ref.version` is the registry's version, else the first 12 digits of `ref.sha256`. `ref.location` is a folder
        that workers can read, or ``artifact:<pinned URI>`` where the driver must hand the files out.

    Raises
    ------
    ModelError
        `SPS-MODEL-MISSING`, `SPS-MODEL-FORMAT`, `SPS-MODEL-EXTERNAL`, `SPS-MODEL-LINK`, `SPS-MODEL-ENCODER`,
        `SPS-MODEL-SIGNATURE`, `SPS-MODEL-ADMISSION`, `SPS-MODEL-TYPE`.
    ClusterError
        `SPS-ENV-ACCESS`, `SPS-ENV-PACKAGE`, `SPS-ENV-SOURCE`, `SPS-CLUSTER-STORAGE`.
    """
    with cache.fresh_folder() as scratch:
        found = registry.resolve(uri, scratch)
        folder, package = _package(found.location, uri)
        fresh = scratch / "model"
        fresh.mkdir(mode=0o700)
        manifest = _graph_files(_Source(folder, uri, allow_links), package.main, fresh)
        encoders = [_encoder(i, name, at, fresh) for i, (name, at) in enumerate((encoder_files or {}).items())]
        manifest += encoders
        sha256 = cache.manifest_sha256(manifest)
        readable = found.readable and all(registry.workers_read(e.source) for e in encoders)
        location = folder if readable else f"artifact:{found.uri}"
        ref = ModelRef(uri, found.version or sha256[:12], sha256, location, package.main, tuple(manifest))
        paths = {name: e.path for name, e in zip(encoder_files or (), encoders, strict=True)}
        flags = admit(ref, fresh).flags  # before this process loads it
        if package.inputs or package.outputs:
            assert_recorded(package, read_signature(fresh, package.main), uri)
        return PinnedModel(ref, cache.publish(fresh, ref), paths, flags)


def _package(location: str, uri: str) -> tuple[str, Package]:
    """Give the folder, and its ONNX file: the location itself, the only one in the folder, or the MLmodel's."""
    listed = files.list_files(location, recursive=False)
    root = location.rstrip("/")
    if [f.uri for f in listed] == [location]:
        folder, _, name = root.rpartition("/")
        return folder or "/", Package(name)
    names = [f.uri[len(root) + 1 :] for f in listed]
    if "MLmodel" in names:
        return root, read_package(root, uri)
    found = [n for n in names if n.endswith(".onnx")]
    if len(found) == 1:
        return root, Package(found[0])
    raise error(
        "SPS-MODEL-MISSING",
        f"Expected an .onnx file at {location}, or a folder with exactly one. Got {', '.join(found) or 'none'}.",
        "Name the file itself in model.uri." if found else "Check model.uri, and that this user may list the folder.",
        model=uri,
    )


def _graph_files(source: _Source, main: str, fresh: Path) -> list[ModelFile]:
    """Copy the ONNX file, and the external data that it names."""
    try:
        manifest = [source.copied(main, fresh)]
    except FileNotFoundError as cause:
        wanted = f"Expected the ONNX file {main} in {source.folder}. Got nothing."
        raise error("SPS-MODEL-MISSING", wanted, "Copy the model with all its files.", model=source.uri) from cause
    needed: dict[str, list[ExternalData]] = {}
    for data in external_data(fresh / main, source.uri):
        needed.setdefault(_contained(data.location, main, source.uri), []).append(data)
    for name, ranges in needed.items():
        if name != main:
            manifest.append(_external(source, name, fresh))
        _assert_long_enough(ranges, (fresh / name).stat().st_size, source.uri)
    return manifest


def _contained(location: str, main: str, uri: str) -> str:
    """Give external data's path in the model's folder; it is relative to the ONNX file, and leads nowhere else."""
    path = PurePosixPath(location)
    # `*/_ORT_MEM_ADDR_/*` is not a file: ONNX Runtime takes its offset for an address in memory.
    bad = path.is_absolute() or not path.parts or ".." in path.parts or "_ORT_MEM_ADDR_" in path.parts
    long = any(len(part.encode("utf-8", "replace")) > 255 for part in path.parts) or len(location) > _MAX_PATH
    if bad or long or "\\" in location or not location.isprintable():
        raise _external_error(
            f"Expected external data by a relative path inside the model's folder. Got {location[:200]!r}.",
            "Do not load this file: no exporter writes such a path. Export the model again.",
            uri,
        )
    return str(PurePosixPath(main).parent / path)


def _external(source: _Source, name: str, fresh: Path) -> ModelFile:
    try:
        return source.copied(name, fresh)
    except FileNotFoundError as cause:
        wanted = f"Expected the external data {name} beside the model, in {source.folder}. Got nothing."
        raise _external_error(wanted, "Copy the model with all its files.", source.uri) from cause


def _assert_long_enough(ranges: list[ExternalData], size_bytes: int, uri: str) -> None:
    for data in ranges:
        end = data.offset + (data.length or 0)
        if data.offset < 0 or (data.length or 0) < 0 or end > size_bytes:
            raise _external_error(
                f"Expected {data.location} to hold the bytes {data.offset} to {end}. Got {size_bytes} bytes.",
                "Copy the model again: the file is cut short, or belongs to another model.",
                uri,
            )


def _external_error(message: str, fix: str, uri: str) -> SparkscoreError:
    return error("SPS-MODEL-EXTERNAL", message, fix, model=uri)


def _encoder(index: int, name: str, located: str, fresh: Path) -> ModelFile:
    local = files.local_path(located)
    source = str(local.absolute()) if local is not None else located
    path = f"{ENCODERS}/{index}-{PurePosixPath(located).name}"
    if (fresh / path).exists():
        raise error(
            "SPS-MODEL-ENCODER",
            f"Expected {path} free in the model's folder, for the file {name}. Got external data of the model there.",
            "Export the model with its external data under another name.",
        )
    try:
        size, sha256 = cache.copy_hashed(source, fresh / path)
    except FileNotFoundError as cause:
        raise error(
            "SPS-MODEL-ENCODER",
            f"Expected the file {name} at {located}. Got nothing.",
            "Correct its name; a relative path starts at the pipeline file's folder.",
        ) from cause
    return ModelFile(path, size, sha256, source)
