"""Files by URI, on whatever a driver or a worker can reach without a JVM: local disks, S3, DBFS and Volumes, WebHDFS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sparkscore.errors import error

if TYPE_CHECKING:
    from pyarrow import fs

__all__ = ["FileStat", "filesystem", "list_files", "local_path", "read_bytes", "stat", "write_bytes"]


@dataclass(frozen=True)
class FileStat:
    """A file's URI as it was asked for, its size, and when it was last written."""

    uri: str
    size_bytes: int
    mtime_ns: int


def local_path(uri: str) -> Path | None:
    """Give the path of a file on a disk that this machine mounts, None for any other store.

    ``dbfs:/Volumes/x`` is the mounted ``/Volumes/x``, any other ``dbfs:/x`` is ``/dbfs/x``.
    """
    scheme = _scheme(uri)
    if scheme == "":
        return Path(uri)
    rest = uri[len(scheme) + 1 :]
    path = "/" + rest.lstrip("/") if rest.startswith("/") else rest
    if scheme == "file":
        return Path(path)
    if scheme == "dbfs":
        return Path(path) if path.startswith("/Volumes/") else Path("/dbfs" + path)
    return None


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Give the pyarrow file system of a URI, and the path in it.

    S3 takes its endpoint, region and credentials from the environment (``AWS_*``), as in Spark's Python workers,
    which do not see ``fs.s3a.*``.

    Raises
    ------
    ClusterError
        `SPS-ENV-PACKAGE` for a scheme that nothing here can read.
    """
    from pyarrow import fs

    path = local_path(uri)
    if path is not None:
        return fs.LocalFileSystem(), str(path)
    scheme = _scheme(uri)
    if scheme in ("s3", "s3a", "s3n"):
        return _s3(), uri.partition("://")[2]
    if scheme == "hdfs":
        return _webhdfs(uri), unquote(urlsplit(uri).path)
    raise error(
        "SPS-ENV-PACKAGE",
        f"Expected a path, file:, s3://, s3a://, hdfs:// or dbfs:/ URI. Got {scheme}:.",
        "Copy the files to one of these.",
        uri=uri,
    )


def read_bytes(uri: str) -> bytes:
    """Read a whole file. A missing one raises FileNotFoundError."""
    handle, path = filesystem(uri)
    with _mapped(uri), handle.open_input_stream(path) as source:
        return bytes(source.read())


def write_bytes(uri: str, data: bytes) -> None:
    """Create or replace a file, with the folders above it."""
    handle, path = filesystem(uri)
    with _mapped(uri):
        if local_path(uri) is not None:
            handle.create_dir(str(Path(path).parent), recursive=True)
        with handle.open_output_stream(path) as sink:
            sink.write(data)


def stat(uris: Sequence[str]) -> list[FileStat | None]:
    """Look at files or folders, in one call for each store; None stands for what is not there."""
    from pyarrow import fs

    found: list[FileStat | None] = []
    for uri in uris:
        handle, path = filesystem(uri)
        with _mapped(uri):
            info = handle.get_file_info(path)
        missing = info.type == fs.FileType.NotFound
        found.append(None if missing else FileStat(uri, info.size or 0, info.mtime_ns or 0))
    return found


def list_files(uri: str) -> list[FileStat]:
    """List the files below a folder, sorted; the file itself for a file; empty when there is nothing."""
    from pyarrow import fs

    handle, path = filesystem(uri)
    with _mapped(uri):
        info = handle.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            return []
        if info.is_file:
            return [FileStat(uri, info.size or 0, info.mtime_ns or 0)]
        below = handle.get_file_info(fs.FileSelector(path, recursive=True))
    root = uri.rstrip("/")
    depth = len(path.rstrip("/")) + 1
    files = [FileStat(f"{root}/{f.path[depth:]}", f.size or 0, f.mtime_ns or 0) for f in below if f.is_file]
    return sorted(files, key=lambda f: f.uri)


def _scheme(uri: str) -> str:
    head, colon, _ = uri.partition(":")
    return head.lower() if colon and "/" not in head else ""


def _s3() -> Any:
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {"region": region} if region else {}
    if endpoint:
        options |= {"endpoint_override": endpoint}
    return fs.S3FileSystem(**options)


def _webhdfs(uri: str) -> Any:
    try:
        import fsspec
        import requests  # noqa: F401  # what fsspec's WebHDFS speaks HTTP with
    except ImportError as cause:
        raise error(
            "SPS-ENV-PACKAGE",
            "Expected the packages fsspec and requests to read hdfs:// without a JVM. Got none.",
            'pip install "sparkscore[fs]"',
            uri=uri,
        ) from cause
    from pyarrow import fs

    port = int(os.environ.get("SPARKSCORE_WEBHDFS_PORT", "9870"))
    host = urlsplit(uri).hostname
    return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("webhdfs", host=host, port=port)))


class _mapped:  # noqa: N801  # reads as a statement: `with _mapped(uri):`
    """Give a store's refusal as an error of ours; a missing file stays FileNotFoundError."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, cause: BaseException | None, trace: Any) -> None:
        if not isinstance(cause, OSError) or isinstance(cause, FileNotFoundError | NotADirectoryError):
            return
        denied = isinstance(cause, PermissionError) or "ACCESS_DENIED" in str(cause) or "403" in str(cause)
        raise error(
            "SPS-ENV-ACCESS" if denied else "SPS-CLUSTER-STORAGE",
            f"Expected {self.uri} to be readable. Got {type(cause).__name__}: {str(cause).splitlines()[0][:200]}",
            "Give this user the permission, or the AWS_* environment." if denied else "Try again; look at the store.",
        ) from cause
