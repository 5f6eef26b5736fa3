"""A model's URI, as a person writes it, becomes a pinned model: a version, a digest, and a verified local copy."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparkscore.errors import error
from sparkscore.runtime import cache, files, registry
from sparkscore.runtime.onnx_file import ExternalData, external_data
from sparkscore.spec.scoring import ModelFile, ModelRef

__all__ = ["PinnedModel", "pin"]

ENCODERS = "encoders"  # folder of the manifest that holds tokenizers, vocabularies and labels


@dataclass(frozen=True)
class PinnedModel:
    """A model pinned to bytes, with the folder of this machine that holds them.

    `encoder_paths` maps an encoder's file, as the pipeline names it, to its path in that folder.
    """

    ref: ModelRef
    folder: Path
    encoder_paths: Mapping[str, str]


def pin(uri: str, *, encoder_files: Mapping[str, str] | None = None, allow_links: bool = False) -> PinnedModel:
    """Resolve a URI once, and copy and hash every file of the model in one pass.

    Parameters
    ----------
    uri : str
        A path or URI of an ONNX file, of a folder with exactly one, or of an MLflow package; ``models:/name@alias``,
        ``models:/name/7``, ``runs:/id/path``.
    encoder_files : mapping of str to str, optional
        Name as written in the pipeline -> path or URI. They become part of the model's identity.
    allow_links : bool
        Follow symbolic links that leave the model's folder.

    Raises
    ------
    ModelError
        `SPS-MODEL-MISSING`, `-FORMAT`, `-EXTERNAL`, `-LINK`, `-ENCODER`.
    """
    with tempfile.TemporaryDirectory(prefix="sparkscore-") as scratch:
        found = registry.resolve(uri, Path(scratch))
        base, main = _main_file(found.location, uri)
        fresh = Path(scratch) / "model"
        manifest = [_copied(base, main, fresh, allow_links, uri)]
        names = dict.fromkeys(d.location for d in _checked(external_data(fresh / main), uri))
        manifest += [_copied(base, name, fresh, allow_links, uri) for name in names]
        _assert_long_enough(external_data(fresh / main), fresh, uri)
        paths: dict[str, str] = {}
        for index, (name, located) in enumerate((encoder_files or {}).items()):
            paths[name] = f"{ENCODERS}/{index}-{Path(located).name}"
            manifest.append(_encoder(name, located, paths[name], fresh))
        sha256 = cache.manifest_sha256(manifest)
        folder = cache.publish(sha256, lambda target: _moved(fresh, target))
    version = found.version or sha256[:12]
    ref = ModelRef(uri, version, sha256, base if found.readable else f"artifact:{found.uri}", main, tuple(manifest))
    return PinnedModel(ref, cache.local_folder(ref, str(folder)), paths)


def _main_file(location: str, uri: str) -> tuple[str, str]:
    """Give the folder and the name of the ONNX file: the location itself, the only one in it, or the MLmodel's."""
    listed = files.list_files(location)
    if not listed:
        raise error(
            "SPS-MODEL-MISSING",
            f"Expected a model at {location}. Got nothing.",
            "Check model.uri; a relative path starts at the pipeline file's folder.",
            model=uri,
        )
    root = location.rstrip("/")
    if [f.uri for f in listed] == [location]:
        base, _, name = root.rpartition("/")
        return base or ("/" if root.startswith("/") else "."), name
    names = [f.uri[len(root) + 1 :] for f in listed]
    if "MLmodel" in names:
        return registry.onnx_file_of(root, uri)
    found = [n for n in names if n.endswith(".onnx") and "/" not in n]
    if len(found) == 1:
        return root, found[0]
    raise error(
        "SPS-MODEL-MISSING",
        f"Expected exactly one .onnx file in {location}. Got {', '.join(found) or 'none'}.",
        "Name the file itself in model.uri.",
        model=uri,
    )


def _moved(fresh: Path, target: Path) -> None:
    shutil.copytree(fresh, target, dirs_exist_ok=True)


def _copied(base: str, name: str, fresh: Path, allow_links: bool, uri: str) -> ModelFile:
    source = f"{base.rstrip('/')}/{name}" if base != "." else name
    _check_link(source, base, allow_links, uri)
    try:
        size, sha256 = cache.copy_hashed(source, fresh / name)
    except FileNotFoundError as cause:
        raise error(
            "SPS-MODEL-EXTERNAL",
            f"Expected the external data {name} beside the model. Got nothing at {source}.",
            "Copy the model with all its files.",
            model=uri,
        ) from cause
    return ModelFile(name, size, sha256)


def _check_link(source: str, base: str, allow_links: bool, uri: str) -> None:
    path, folder = files.local_path(source), files.local_path(base)
    if path is None or folder is None or allow_links:
        return
    if path.resolve() != folder.resolve() / path.relative_to(folder) and not path.resolve().is_relative_to(
        folder.resolve()
    ):
        raise error(
            "SPS-MODEL-LINK",
            f"Expected {path.name} inside the model's folder. Got a symbolic link to {path.resolve()}.",
            "Copy the file into the folder, or set model.allow_links: true when you trust the link.",
            model=uri,
        )


def _checked(found: tuple[ExternalData, ...], uri: str) -> tuple[ExternalData, ...]:
    for data in found:
        parts = data.location.replace("\\", "/").split("/")
        if not data.location or data.location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise error(
                "SPS-MODEL-EXTERNAL",
                f"Expected external data by a relative path inside the model's folder. Got {data.location!r}.",
                "Do not load this file: no exporter writes such a path. Export the model again.",
                model=uri,
            )
    return found


def _assert_long_enough(found: tuple[ExternalData, ...], folder: Path, uri: str) -> None:
    for data in found:
        size = (folder / data.location).stat().st_size
        end = data.offset + (data.length or 0)
        if data.offset < 0 or (data.length or 0) < 0 or end > size:
            raise error(
                "SPS-MODEL-EXTERNAL",
                f"Expected {data.location} to hold the bytes {data.offset} to {end}. Got a file of {size} bytes.",
                "Copy the model again: the file is cut short, or belongs to another model.",
                model=uri,
            )


def _encoder(name: str, located: str, path: str, fresh: Path) -> ModelFile:
    local = files.local_path(located)
    source = str(local.absolute()) if local is not None else located
    try:
        size, sha256 = cache.copy_hashed(source, fresh / path)
    except (FileNotFoundError, IsADirectoryError) as cause:
        raise error(
            "SPS-MODEL-ENCODER",
            f"Expected the file {name} at {located}. Got nothing.",
            "A relative path starts at the pipeline file's folder.",
        ) from cause
    return ModelFile(path, size, sha256, source)
