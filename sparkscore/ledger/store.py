"""Small write-once objects under one root: `put_if_absent` is the only primitive that a run's correctness needs."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sparkscore.errors import error

__all__ = ["LocalStore", "Store", "open_store"]


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
    """A folder on a local disk, or on one that all executors mount at the same path."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).absolute()  # workers write receipts below it, from folders of their own
        self.root = str(self._root)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write beside the target, then link: `os.link` fails when the name exists, and never shows half a file."""
        temporary, target = self._write_beside(name, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _fsync_folder(target.parent)
        return True

    def put(self, name: str, data: bytes) -> None:
        """Write beside the target, then rename over it."""
        temporary, target = self._write_beside(name, data)
        temporary.replace(target)

    def get(self, name: str) -> bytes | None:
        """Read the object, None when there is none."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, prefix: str) -> list[str]:
        """List the folder, leaving out files that are still being written."""
        try:
            return sorted(p.name for p in (self._root / prefix).iterdir() if not p.name.startswith("."))
        except FileNotFoundError:
            return []

    def _write_beside(self, name: str, data: bytes) -> tuple[Path, Path]:
        target = self._root / name
        temporary = target.parent / f".{uuid.uuid4().hex}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as cause:
            with suppress(OSError):
                temporary.unlink()
            raise error(
                "SPS-ENV-LEDGER",
                f"Expected a ledger folder that takes writes. Got {type(cause).__name__}: {cause.strerror or cause}.",
                "Give `ledger:` a folder that this user may write to, with free space.",
                file=str(target),
            ) from cause
        return temporary, target


def _fsync_folder(folder: Path) -> None:
    """Make the new name itself durable: without it, a power cut may keep the bytes and lose the entry."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_store(root: str) -> Store:
    """Open the ledger's store at a path or file: URI.

    Raises
    ------
    SpecError
        `SPS-SPEC-LATER` for a scheme whose write-once primitive this version does not have.
    """
    scheme, colon, rest = root.partition(":")
    if colon and scheme not in ("file",):
        raise error(
            "SPS-SPEC-LATER",
            f"Expected a ledger on a local or shared disk. Got {scheme}: which is not in this version.",
            "Give `ledger:` a path that the driver and all executors mount.",
            ledger=root,
        )
    return LocalStore(_strip_authority(rest) if colon else root)


def _strip_authority(path: str) -> str:
    """`file:///x` and `file:/x` name the same path."""
    return path.removeprefix("//")
