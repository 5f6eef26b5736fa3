"""The node's model cache: a pinned model becomes a verified local folder, once a node, whatever races for it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sparkscore.errors import error
from sparkscore.runtime import files
from sparkscore.runtime.weights import shared_weights
from sparkscore.spec.scoring import ModelFile, ModelRef

__all__ = [
    "cache_root",
    "copy_hashed",
    "fresh_folder",
    "local_folder",
    "manifest_sha256",
    "note",
    "publish",
    "to_hand_out",
    "write_note",
]

_CHUNK_BYTES = 8 << 20
_VERIFY_EACH_TIME_BYTES = 2 << 30  # larger models are verified once in each process
_ABANDONED_S = 24 * 3600  # a folder that has been filled for a day belongs to a process that was killed
_verified: set[Path] = set()  # folders of larger models that this process has verified


def cache_root() -> Path:
    """Give the folder of the cache: ``SPARKSCORE_CACHE``, else ``~/.cache/sparkscore``."""
    set_root = os.environ.get("SPARKSCORE_CACHE")
    with _cache_access(Path("~")):
        return Path(set_root) if set_root else Path.home() / ".cache" / "sparkscore"


def manifest_sha256(manifest: Sequence[ModelFile]) -> str:
    """Give the digest of a model: sha256 of the canonical JSON of its files' path, size and sha256."""
    rows = sorted([f.path, f.size_bytes, f.sha256] for f in manifest)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def local_folder(ref: ModelRef, source: Callable[[ModelFile], str] | None = None) -> Path:
    """Give a local folder that holds exactly the pinned bytes; fetch them when it is not there.

    Up to 2 GiB every file is hashed at each call, larger models once in each process. A damaged copy is fetched again.
    Beside the folder lie the weights of a large file, for processes to share (`sparkscore.runtime.weights`): compared
    with the file at each call, and written again when they differ.

    Parameters
    ----------
    ref : ModelRef
        The pinned model.
    source : callable, optional
        Says where a file is fetched from, instead of ``ref.location``: where the driver's files were handed out.

    Raises
    ------
    ModelError
        `SPS-MODEL-DIGEST` when the source's bytes are not the pinned ones, `SPS-MODEL-MISSING` when they are gone.
    ClusterError
        `SPS-ENV-ACCESS` when the cache cannot be written, or the source not be read.
    """
    folder = _place(ref)
    if _is_whole(folder, ref) and _is_shared(folder, ref):
        return folder
    with _lock(ref.sha256):  # the others wait here, and find it
        if not _is_whole(folder, ref):
            with fresh_folder() as scratch:
                _replace(folder, _fetched(ref, source, scratch / "model"), ref)
        if not _is_shared(folder, ref):
            _share(folder, ref)
    return folder


def publish(fresh: Path, ref: ModelRef) -> Path:
    """Give a filled folder, made in a `fresh_folder`, its place in the cache by one rename; a whole copy stays."""
    folder = _place(ref)
    with _lock(ref.sha256):
        if not _is_whole(folder, ref):
            _replace(folder, fresh, ref)
    return folder


def to_hand_out(file: Path, name: str) -> Path:
    """Give a file of the cache another name in it, for as long as the cache stands.

    Spark resolves symbolic links, wants one place for a name, and serves the file from there for as long as the
    session lives (pyspark 4.2, `SparkContext.addFile`); so the file is neither linked softly nor removed.
    """
    target = cache_root() / "handed-out" / name
    with fresh_folder() as scratch, _cache_access(target):
        target.parent.mkdir(exist_ok=True, mode=0o700)
        try:
            os.link(file, scratch / name)
        except OSError:  # a disk without hard links
            shutil.copyfile(file, scratch / name)
        (scratch / name).replace(target)
    return target


def note(sha256: str) -> dict[str, Any] | None:
    """Read what was noted about a model; None when there is nothing."""
    path = _note_path(sha256)
    with _cache_access(path):
        try:
            found = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):  # ValueError: a disk that lost what it had taken
            return None
    return found if isinstance(found, dict) else None


def write_note(sha256: str, facts: dict[str, Any]) -> None:
    """Note facts about a model beside its folder, which holds the pinned bytes and nothing else."""
    with fresh_folder() as scratch, _cache_access(_note_path(sha256)):
        (scratch / "note").write_text(json.dumps(facts))
        (scratch / "note").replace(_note_path(sha256))


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """Make a private folder on the cache's disk; what is left of it at the end is removed.

    Raises
    ------
    ClusterError
        `SPS-ENV-ACCESS` when the cache cannot be written.
    """
    models = cache_root() / "models"
    with _cache_access(models):
        models.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(prefix=".fresh-", dir=models))  # with mode 0700
    _sweep(models)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_hashed(uri: str, target: Path) -> tuple[int, str]:
    """Copy a file and hash what was copied, in one pass: size in bytes, sha256 in hex.

    Raises
    ------
    FileNotFoundError
        There is no such file at `uri`.
    ClusterError
        `SPS-ENV-ACCESS`, `SPS-CLUSTER-STORAGE`: `uri` cannot be read, or `target` not be written.
    """
    digest, size = hashlib.sha256(), 0
    with _cache_access(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sink = target.open("wb", buffering=0)  # a full disk shows at the write, not at the close
    with sink:
        for chunk in files.read_chunks(uri, _CHUNK_BYTES):
            digest.update(chunk)
            with _cache_access(target):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[sink.write(rest) :]
            size += len(chunk)
    return size, digest.hexdigest()


def _sweep(models: Path) -> None:
    """Remove what killed processes left behind."""
    for folder in models.glob(".fresh-*"):
        with suppress(FileNotFoundError):  # its owner was quicker
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def _place(ref: ModelRef) -> Path:
    return cache_root() / "models" / ref.sha256


def _note_path(sha256: str) -> Path:
    return cache_root() / "models" / f"{sha256}.json"


def _fetched(ref: ModelRef, source: Callable[[ModelFile], str] | None, fresh: Path) -> Path:
    fresh.mkdir(mode=0o700)
    for file in ref.files:
        uri = source(file) if source else file.source or f"{ref.location.rstrip('/')}/{file.path}"
        try:
            size, sha256 = copy_hashed(uri, fresh / file.path)
        except FileNotFoundError as cause:
            raise error(
                "SPS-MODEL-MISSING",
                f"Expected the pinned file {file.path} at {uri}. Got nothing.",
                "Put the model back where every node reads it, or start a new run id with the model that is there.",
                model=ref.uri,
            ) from cause
        if (size, sha256) != (file.size_bytes, file.sha256):
            raise error(
                "SPS-MODEL-DIGEST",
                f"Expected {file.path} of {file.size_bytes} bytes with sha256 {file.sha256[:12]}. "
                f"Got {size} bytes with {sha256[:12]}: the model changed after it was pinned.",
                "Put the pinned bytes back, or start a new run id, which pins what is there.",
                model=ref.uri,
            )
    return fresh


def _replace(folder: Path, fresh: Path, ref: ModelRef) -> None:
    """Put a folder whose bytes were hashed while they were copied at its place; the lock is held."""
    with _cache_access(folder):
        if folder.exists():
            folder.rename(fresh.parent / "damaged")
        fresh.rename(folder)
    _remember(folder, ref)


def _is_whole(folder: Path, ref: ModelRef) -> bool:
    paths = [(folder / f.path, f) for f in ref.files]
    with _cache_access(folder):
        try:
            whole = all(path.is_file() and path.stat().st_size == f.size_bytes for path, f in paths)
            whole = whole and (folder in _verified or all(_sha256(path) == f.sha256 for path, f in paths))
        except FileNotFoundError:  # another process is just replacing it
            return False
    if whole:
        _remember(folder, ref)
    return whole


def _is_shared(folder: Path, ref: ModelRef) -> bool:
    with _cache_access(folder):
        try:
            weights = shared_weights(folder, ref.main)
        except FileNotFoundError:  # another process is just replacing it
            return False
        return weights is None or weights.is_whole()


def _share(folder: Path, ref: ModelRef) -> None:
    """Write the weights of a whole folder to a file of their own; the lock is held, so all processes map one file."""
    weights = shared_weights(folder, ref.main)
    with fresh_folder() as scratch, _cache_access(folder):
        if weights is not None:
            weights.write(scratch / "weights")
            (scratch / "weights").replace(weights.file)


def _remember(folder: Path, ref: ModelRef) -> None:
    if sum(f.size_bytes for f in ref.files) > _VERIFY_EACH_TIME_BYTES:
        _verified.add(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Hold the node's lock of a name; the kernel frees it when the process dies."""
    folder = cache_root() / "locks"
    with _cache_access(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / name).open("wb")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _cache_access(path: Path) -> Iterator[None]:
    """Give a disk's refusal as an error of ours."""
    try:
        yield
    except (OSError, RuntimeError) as cause:  # RuntimeError: this user has no home
        raise error(
            "SPS-ENV-ACCESS",
            f"Expected to read and write the model cache at {path}. Got {type(cause).__name__}: {cause}.",
            "Set SPARKSCORE_CACHE to a folder with free space that this user may write, on every node.",
        ) from cause
