"""The node's model cache: a pinned model becomes a verified local folder, once a node, whatever races for it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sparkscore.errors import error
from sparkscore.runtime import files
from sparkscore.spec.scoring import ModelFile, ModelRef

__all__ = ["cache_root", "copy_hashed", "local_folder", "manifest_sha256", "publish"]

_CHUNK_BYTES = 8 << 20
_VERIFY_EACH_TIME_BYTES = 2 << 30  # larger models are verified once in each process
_verified: set[str] = set()  # digests of larger models that this process has verified


def cache_root() -> Path:
    """Give the folder of the cache: ``SPARKSCORE_CACHE``, else ``~/.cache/sparkscore``."""
    set_root = os.environ.get("SPARKSCORE_CACHE")
    return Path(set_root) if set_root else Path.home() / ".cache" / "sparkscore"


def manifest_sha256(manifest: Sequence[ModelFile]) -> str:
    """Give the digest of a model: sha256 of the canonical JSON of its files' path, size and sha256."""
    rows = sorted([f.path, f.size_bytes, f.sha256] for f in manifest)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def local_folder(ref: ModelRef, source: str | None = None) -> Path:
    """Give a local folder that holds exactly the pinned bytes; fetch them when it is not there.

    Up to 2 GiB every file is hashed at each call, larger models once in each process. A damaged copy is fetched again.

    Parameters
    ----------
    ref : ModelRef
        The pinned model.
    source : str, optional
        Folder or URI to fetch from, instead of ``ref.location``.

    Raises
    ------
    ModelError
        `SPS-MODEL-DIGEST` when the source's bytes are not the pinned ones, `SPS-MODEL-MISSING` when they are gone.
    """
    folder = cache_root() / "models" / ref.sha256
    if _is_whole(folder, ref):
        return folder
    with _lock(ref.sha256):
        if not _is_whole(folder, ref):
            shutil.rmtree(folder, ignore_errors=True)
            publish(ref.sha256, lambda fresh: _fetch(ref, source, fresh))
    if ref.sha256 not in _verified and sum(f.size_bytes for f in ref.files) > _VERIFY_EACH_TIME_BYTES:
        _verified.add(ref.sha256)  # hashed while it was copied
    return folder


def publish(sha256: str, fill: Callable[[Path], None]) -> Path:
    """Fill a fresh private folder and give it its place in the cache by one rename; the first to come wins."""
    models = cache_root() / "models"
    models.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = Path(tempfile.mkdtemp(prefix=".fresh-", dir=models))  # mkdtemp makes it 0700
    target = models / sha256
    try:
        fill(fresh)
        if not target.exists():
            fresh.rename(target)
    except OSError as cause:
        if not target.exists():
            raise _unwritable(models, cause) from cause
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def copy_hashed(uri: str, target: Path) -> tuple[int, str]:
    """Copy a file and hash what was copied, in one pass: size in bytes, sha256 in hex."""
    digest, size = hashlib.sha256(), 0
    handle, path = files.filesystem(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    with handle.open_input_stream(path) as source, target.open("wb") as sink:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            sink.write(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _fetch(ref: ModelRef, source: str | None, fresh: Path) -> None:
    for file in ref.files:
        below = f"{(source or ref.location).rstrip('/')}/{file.path}"
        uri = below if source else file.source or below
        try:
            size, sha256 = copy_hashed(uri, fresh / file.path)
        except FileNotFoundError as cause:
            raise error(
                "SPS-MODEL-MISSING",
                f"Expected the pinned file {file.path} at {uri}. Got nothing.",
                "Put the model back, or start a new run id with the model that is there.",
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


def _is_whole(folder: Path, ref: ModelRef) -> bool:
    if not folder.is_dir():
        return False
    if ref.sha256 in _verified:
        return True
    for file in ref.files:
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != file.size_bytes or _sha256(path) != file.sha256:
            return False
    if sum(f.size_bytes for f in ref.files) > _VERIFY_EACH_TIME_BYTES:
        _verified.add(ref.sha256)
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Hold the node's lock of a name; the kernel frees it when the process dies."""
    folder = cache_root() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / name).open("wb")
    except OSError as cause:
        raise _unwritable(folder, cause) from cause
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unwritable(folder: Path, cause: OSError) -> Exception:
    return error(
        "SPS-ENV-ACCESS",
        f"Expected to write the model cache at {folder}. Got {type(cause).__name__}: {cause.strerror or cause}.",
        "Set SPARKSCORE_CACHE to a folder with free space that this user may write, on every node.",
    )
