"""Small write-once objects under one root: `put_if_absent` is the only primitive that a run's correctness needs."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.hdfs_store import HdfsStore
from sparkscore.ledger.s3_store import S3Store
from sparkscore.runtime.files import is_hdfs, is_s3

__all__ = ["LocalStore", "Store", "open_store"]

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class Store(Protocol):
    """The seam between the ledger and a kind of storage. Names are relative, with '/' between their parts."""

    root: str

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Create the object with all its bytes at once; False when the name is taken. Durable on return."""

    def put(self, name: str, data: bytes) -> None:
        """Create or replace the object with all its bytes at once."""

    def get(self, name: str) -> bytes | None:
        """Read the object, None when there is none."""

    def names(self, prefix: str) -> list[str]:
        """List the names of the folder `prefix`, not deeper, sorted; empty when there is no such folder."""


class LocalStore:
    """A folder on a local disk, or on one that all executors mount at the same path.

    What the disk refuses is a `ClusterError`, `SPS-ENV-LEDGER`.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).absolute()  # workers write receipts below it, from folders of their own
        self.root = str(self._root)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write beside the target, then link: `os.link` fails when the name exists, and never shows half a file."""
        target = self._root / name
        with _access(target, "takes writes"), _beside(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as cause:  # to create the name and then fill it would show half a file
                if cause.errno in _NO_LINKS:
                    raise _without_links(target, cause) from cause
                raise
            _fsync_folder(target.parent)
        return True

    def put(self, name: str, data: bytes) -> None:
        """Write beside the target, then rename over it."""
        target = self._root / name
        with _access(target, "takes writes"), _beside(target, data) as temporary:
            temporary.replace(target)

    def get(self, name: str) -> bytes | None:
        """Read the object, None when there is none."""
        target = self._root / name
        with _access(target, "can be read"), suppress(FileNotFoundError):
            return target.read_bytes()
        return None

    def names(self, prefix: str) -> list[str]:
        """List the folder, leaving out files that are still being written."""
        folder = self._root / prefix
        with _access(folder, "can be read"), suppress(FileNotFoundError):
            return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        return []


@contextmanager
def _beside(target: Path, data: bytes) -> Iterator[Path]:
    """Write a file beside the target, durably; whatever is left of it at the end is removed."""
    temporary = target.parent / f".{uuid.uuid4().hex}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _access(path: Path, expected: str) -> Iterator[None]:
    """Give a disk's refusal as an error of ours."""
    try:
        yield
    except OSError as cause:
        raise error(
            "SPS-ENV-LEDGER",
            f"Expected a ledger folder that {expected}. Got {type(cause).__name__}: {cause.strerror or cause}.",
            "Give `ledger:` a folder that this user may read and write, with free space.",
            file=str(path),
        ) from cause


def _without_links(path: Path, cause: OSError) -> SparkscoreError:
    return error(
        "SPS-ENV-LEDGER",
        f"Expected a ledger on a disk with hard links: a name is given once, to a whole file. Got {cause.strerror}.",
        "Give `ledger:` a folder on a local disk or on NFS; most buckets that are mounted as a folder have no links.",
        file=str(path),
    )


def _fsync_folder(folder: Path) -> None:
    """Make the new name itself durable: without it, a power cut may keep the bytes and lose the entry."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_store(root: str) -> Store:
    """Open the ledger's store at a path, or a file:, s3:, s3a: or hdfs: URI.

    Raises
    ------
    SpecError
        `SPS-SPEC-LATER` for a scheme whose write-once primitive this version does not have.
    ClusterError
        `SPS-ENV-PACKAGE` for S3 without boto3.
    """
    scheme, colon, rest = root.partition(":")
    if is_s3(root):
        return S3Store(root)
    if is_hdfs(root):
        return HdfsStore(root)
    if colon and scheme != "file":
        raise error(
            "SPS-SPEC-LATER",
            f"Expected a ledger on a local or shared disk, S3 or HDFS. Got {scheme}: which is not in this version.",
            "Give `ledger:` a path that the driver and all executors mount, s3a://bucket/folder or hdfs://host/folder.",
        )
    return LocalStore(_strip_authority(rest) if colon else root)


def _strip_authority(path: str) -> str:
    """`file:///x` and `file:/x` name the same path."""
    return path.removeprefix("//")
