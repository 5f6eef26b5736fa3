"""Files by URI, on what a driver or a worker reaches without a JVM: local disks, S3, DBFS and Volumes, WebHDFS."""

from __future__ import annotations

import getpass
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkscore.errors import error
from sparkscore.runtime.webhdfs import WebHdfs

if TYPE_CHECKING:
    from pyarrow import fs

__all__ = [
    "FileStat",
    "assert_unchanged",
    "changed_since",
    "delete",
    "delete_folder",
    "filesystem",
    "is_hdfs",
    "is_s3",
    "list_files",
    "local_path",
    "move",
    "names_in",
    "read_bytes",
    "read_chunks",
    "s3_endpoint",
    "s3_region",
    "said_of",
    "stat",
    "webhdfs",
    "write_bytes",
]

_S3_TRIES = 6  # of a request; pyarrow's own 3 are too few for the bursts of 503 with which S3 slows its clients down
_DENIED = ("ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID", "HTTP status 403")


@dataclass(frozen=True)
class FileStat:
    """A file's URI as it was asked for, its size, and when it was last written (0: the store does not say)."""

    uri: str
    size_bytes: int
    mtime_ns: int


def local_path(uri: str) -> Path | None:
    """Give the path of a file on a disk that this machine mounts, None for any other store.

    ``dbfs:/Volumes/x`` is the mounted ``/Volumes/x``, any other ``dbfs:/x`` is ``/dbfs/x``. Nothing is decoded: as in
    Hadoop's paths, ``%20`` is three characters.
    """
    scheme = _scheme(uri)
    if scheme == "":
        return Path(uri)
    rest = uri[len(scheme) + 1 :]
    path = "/" + rest.lstrip("/") if rest.startswith("/") else rest
    if scheme == "file":
        return Path(path)
    if scheme == "dbfs":
        return Path(path) if path.startswith("/Volumes/") else Path(f"/dbfs/{path.lstrip('/')}")
    return None


def is_s3(uri: str) -> bool:
    """Tell whether a URI names a place on S3 by a scheme under which Spark and Python both know it."""
    return _scheme(uri) in ("s3", "s3a")


def is_hdfs(uri: str) -> bool:
    """Tell whether a URI names a place on HDFS."""
    return _scheme(uri) == "hdfs"


def s3_endpoint() -> str | None:
    """Give the address of an S3-compatible store, from the environment; None for AWS's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def s3_region() -> str | None:
    """Give the region of the environment."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Give the pyarrow file system of a URI, and the path in it.

    S3 takes its endpoint, region and credentials from the environment (``AWS_*``), because Python does not see
    ``fs.s3a.*``. HDFS is reached as `webhdfs` says.

    Raises
    ------
    ClusterError
        `SPS-ENV-SOURCE` for a scheme that nothing here can read, or a URI without a host.
    """
    path = local_path(uri)
    if path is not None:
        return _local(), str(path)
    scheme = _scheme(uri)
    host, _, below = uri.partition("://")[2].partition("/")
    if scheme not in ("s3", "s3a", "s3n", "hdfs") or not host:
        raise error(
            "SPS-ENV-SOURCE",
            f"Expected a path, file:, s3://bucket/, s3a://bucket/, hdfs://namenode/ or dbfs:/ URI. Got {uri}.",
            "Correct the URI, or copy the files to one of these.",
        )
    if scheme == "hdfs":
        return _hdfs(webhdfs(host)), f"/{below}"
    endpoint, region = s3_endpoint(), s3_region()
    with _mapped(uri):
        return _s3(endpoint, region, None if endpoint or region else host), f"{host}/{below}".rstrip("/")


def webhdfs(authority: str) -> WebHdfs:
    """Give the client of a NameNode, named as in an ``hdfs://`` URI: ``host`` or ``host:port``.

    The port of a URI is the one that Spark's client speaks to; HTTP is at ``SPARKSCORE_WEBHDFS_PORT`` (9870). The user
    is that of Spark's client: ``HADOOP_USER_NAME``, on executors ``SPARK_USER``, which Spark sets, or the process's.

    Raises
    ------
    ClusterError
        `SPS-ENV-SOURCE` when the variable holds no port.
    """
    port = os.environ.get("SPARKSCORE_WEBHDFS_PORT", "9870")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        wanted = f"Expected a port in SPARKSCORE_WEBHDFS_PORT. Got {port!r}."
        raise error("SPS-ENV-SOURCE", wanted, "Give the NameNode's HTTP port, or unset it for 9870.")
    user = os.environ.get("HADOOP_USER_NAME") or os.environ.get("SPARK_USER") or getpass.getuser()
    return _webhdfs(authority.partition(":")[0], int(port), user)


def read_bytes(uri: str) -> bytes:
    """Read a whole file. A missing one raises FileNotFoundError."""
    return b"".join(read_chunks(uri, 8 << 20))


def read_chunks(uri: str, chunk_bytes: int) -> Iterator[bytes]:
    """Read a file of any size piece by piece. A missing one, or what is no file, raises FileNotFoundError."""
    handle, path = filesystem(uri)
    with _mapped(uri):
        # Asked first: a pipe would block.
        if not handle.get_file_info(path).is_file:
            raise FileNotFoundError(uri)
        with handle.open_input_stream(path, compression=None) as source:  # never unpacks a file named x.gz
            while chunk := source.read(chunk_bytes):
                yield chunk


def write_bytes(uri: str, data: bytes) -> None:
    """Create or replace a file, with the folders above it."""
    handle, path = filesystem(uri)
    with _mapped(uri):
        if local_path(uri) is not None:
            handle.create_dir(str(Path(path).parent), recursive=True)
        with handle.open_output_stream(path, compression=None) as sink:
            sink.write(data)


def names_in(uri: str) -> list[str]:
    """List the names of a folder's files and folders, not deeper, sorted; empty when there is no such folder."""
    from pyarrow import fs

    handle, path = filesystem(uri)
    with _mapped(uri):
        found = handle.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(f.base_name for f in found)


def move(uri: str, target: str) -> None:
    """Give a file or a folder another name in its own store, with the folders above it.

    A missing one raises FileNotFoundError. A folder does not go onto one that holds files. On S3 a file is copied and
    deleted, and a folder is refused.
    """
    handle, path = filesystem(uri)
    _, new = filesystem(target)
    with _mapped(uri):
        if not is_s3(target):
            handle.create_dir(new.rpartition("/")[0], recursive=True)
        handle.move(path, new)


def delete(uri: str) -> None:
    """Remove a file. A missing one raises FileNotFoundError."""
    handle, path = filesystem(uri)
    with _mapped(uri):
        handle.delete_file(path)


def delete_folder(uri: str) -> None:
    """Delete a folder with all that is in it; one that is not there is no error."""
    from pyarrow import fs

    handle, path = filesystem(uri)
    with _mapped(uri):
        if handle.get_file_info(path).type == fs.FileType.Directory:
            handle.delete_dir(path)


def stat(uris: Sequence[str]) -> list[FileStat | None]:
    """Look at files or folders, in one call for each store; None stands for what is not there."""
    from pyarrow import fs

    places = [filesystem(uri) for uri in uris]
    found: list[FileStat | None] = [None] * len(uris)
    for store in {id(handle): handle for handle, _ in places}.values():
        indices = [i for i, (handle, _) in enumerate(places) if handle is store]
        with _mapped(uris[indices[0]]):
            infos = store.get_file_info([places[i][1] for i in indices])
        for i, info in zip(indices, infos, strict=True):
            if info.type != fs.FileType.NotFound:
                found[i] = FileStat(uris[i], info.size or 0, info.mtime_ns or 0)
    return found


def list_files(uri: str, *, recursive: bool = True) -> list[FileStat]:
    """List the files of a folder, sorted; the file itself for a file; empty when there is nothing."""
    from pyarrow import fs

    handle, path = filesystem(uri)
    with _mapped(uri):
        info = handle.get_file_info(path)
        if info.is_file:
            return [FileStat(uri, info.size or 0, info.mtime_ns or 0)]
        if info.type != fs.FileType.Directory:
            return []
        below = handle.get_file_info(fs.FileSelector(path, recursive=recursive))
    root, depth = uri.rstrip("/"), len(path.rstrip("/")) + 1
    files = [FileStat(f"{root}/{f.path[depth:]}", f.size or 0, f.mtime_ns or 0) for f in below if f.is_file]
    return sorted(files, key=lambda f: f.uri)


def changed_since(planned: Collection[Any]) -> str | None:
    """Compare files with the plan by size and time; describe the first that differs, None when none does.

    The two facts come from the same call as the plan's, so equal files compare equal on every file system.
    """
    for was, now in zip(planned, stat([p.path for p in planned]), strict=True):
        if now is None:
            return f"{was.path} is gone"
        if (now.size_bytes, now.mtime_ns // 1_000_000) != (was.size_bytes, was.mtime_ms):
            return f"{was.path} had {was.size_bytes} bytes at the plan and has {now.size_bytes} now"
    return None


def assert_unchanged(planned: Collection[Any], **context: object) -> None:
    """Refuse files that are not as planned.

    Raises
    ------
    RecordError
        `SPS-DATA-GONE`, `SPS-DATA-DRIFT`.
    """
    change = changed_since(planned)
    if change is not None:
        raise error(
            "SPS-DATA-GONE" if change.endswith("is gone") else "SPS-DATA-DRIFT",
            f"Expected the input files as planned. Got: {change}.",
            "Restore the file, or start a new run id over the data as it is now.",
            **context,
        )


def said_of(path: str, cause: Exception) -> str:
    """Give pyarrow's words on a file that it cannot read.

    Raises
    ------
    ClusterError
        `SPS-CLUSTER-STORAGE` where they are a store's answer, which says nothing of the file.
    """
    told = str(cause).splitlines()[0][:200]
    if told.startswith("AWS Error"):
        wanted = f"Expected to reach {path}. Got {told}."
        raise error("SPS-CLUSTER-STORAGE", wanted, "Look at the store; try again.", file=path) from cause
    return told


def _scheme(uri: str) -> str:
    head, colon, _ = uri.partition(":")
    return head.lower() if colon and "/" not in head else ""


@lru_cache(maxsize=1)
def _local() -> fs.FileSystem:
    from pyarrow import fs

    return fs.LocalFileSystem()


@lru_cache(maxsize=8)
def _s3(endpoint: str | None, region: str | None, bucket: str | None) -> fs.FileSystem:
    """Make one client for each store; it reads changed credentials of the environment at each request."""
    from pyarrow import fs

    tries = fs.AwsStandardS3RetryStrategy(max_attempts=_S3_TRIES)
    options: dict[str, Any] = {"region": fs.resolve_s3_region(bucket) if bucket else region, "retry_strategy": tries}
    if endpoint:
        options["endpoint_override"] = endpoint
    return fs.S3FileSystem(**{name: value for name, value in options.items() if value})


@lru_cache(maxsize=8)
def _hdfs(store: WebHdfs) -> fs.FileSystem:
    from pyarrow import fs

    return fs.PyFileSystem(fs.FSSpecHandler(store))


@lru_cache(maxsize=8)
def _webhdfs(host: str, port: int, user: str) -> WebHdfs:
    return WebHdfs(host, port, user)


@contextmanager
def _mapped(uri: str) -> Iterator[None]:
    """Give a store's refusal as an error of ours; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (NotADirectoryError, IsADirectoryError) as cause:
        raise FileNotFoundError(uri) from cause
    except OSError as cause:
        text = (str(cause).splitlines() or [""])[0][:300]
        # WebHDFS answers 403 to all that it refuses, and what is denied there is a PermissionError.
        denied = isinstance(cause, PermissionError) or (not is_hdfs(uri) and any(word in text for word in _DENIED))
        raise error(
            "SPS-ENV-ACCESS" if denied else "SPS-CLUSTER-STORAGE",
            f"Expected to reach {uri}. Got {type(cause).__name__}: {text}.",
            "Give this user the permission, or the AWS_* environment." if denied else "Look at the store; try again.",
        ) from cause
    except ValueError as cause:  # pyarrow's ArrowInvalid, or a NUL in a path
        wanted = f"Expected a path that the store can hold. Got {uri!r}: {cause}."
        raise error("SPS-ENV-SOURCE", wanted, "Correct the URI.") from cause
