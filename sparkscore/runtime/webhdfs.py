"""HDFS over HTTP, with the standard library alone: one NameNode's WebHDFS as the few calls that files and ledgers need.

fsspec's client was tried and left: it has no time-outs, tells no times of files, and takes a DataNode's refusal for
the file's bytes.
"""

from __future__ import annotations

import http.client
import io
import json
import random
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

__all__ = ["WebHdfs"]

_TRIES = 6
_FIRST_WAIT_S = 0.4  # doubled at each try: 9 s in all, on average
_TIMEOUT_S = 30.0
# A NameNode that starts, or that another one stands in for, refuses by these names and takes the same call later.
_NOT_YET = frozenset({"SafeModeException", "StandbyException", "RetriableException"})
_DENIED = frozenset(
    {"AccessControlException", "SecurityException", "AuthenticationException", "AuthorizationException"}
)
_TAKEN = frozenset({"FileAlreadyExistsException"})


class WebHdfs:
    """One NameNode, as one user; paths are absolute. A colon, which HDFS bears in no name, stands there as ``%3A``.

    A call that gets no whole answer is made again, after a wait that doubles. What the NameNode refuses is the OSError
    that a disk would raise: FileNotFoundError, FileExistsError, PermissionError; no answer is a ConnectionError, and
    everything else an OSError with the refusal's name. No text of the server is repeated.

    Parameters
    ----------
    host : str
        Of the NameNode.
    port : int
        Its HTTP port.
    user : str
        Sent as `user.name`, which is all that a cluster without Kerberos asks for.

    Notes
    -----
    `info`, `find`, `open` and their kin are the part of fsspec's interface that `pyarrow.fs.FSSpecHandler` calls.
    """

    protocol = "hdfs"

    def __init__(self, host: str, port: int, user: str) -> None:
        self.host, self.port, self.user = host, port, user

    # -- what a ledger needs ---------------------------------------------------------------------------

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read a file's bytes, all by default. `offset` lies inside the file."""
        some: dict[str, Any] = {} if length is None else {"length": length}
        return self._call("GET", path, "OPEN", offset=offset, **some)

    def create(self, path: str, data: bytes, *, replace: bool) -> None:
        """Give a file its name with all its bytes at once; with `replace` over the one that has it.

        It is written beside the name, then renamed: a NameNode renames to a name that is taken only when told to.

        Raises
        ------
        FileExistsError
            The name is taken, without `replace`.
        """
        folder, _, _ = path.rpartition("/")
        temporary = f"{folder}/.{uuid.uuid4().hex}"
        try:
            self._call("PUT", temporary, "CREATE", data, overwrite="true")
            self._rename(temporary, path, "OVERWRITE" if replace else "NONE")
        except FileNotFoundError:
            # Nobody else moves a name of ours: an earlier try did, whose answer was lost. Or the folder is gone.
            if self.read(path) != data:
                raise
        except OSError:
            with suppress(OSError):
                self._call("DELETE", temporary, "DELETE")
            raise

    def listed(self, path: str) -> list[dict[str, Any]]:
        """List a folder, not deeper; a file lists itself, under its own name."""
        answer = json.loads(self._call("GET", path, "LISTSTATUS"))
        above = path.rstrip("/")
        return [_facts(f"{above}/{s['pathSuffix']}".rstrip("/"), s) for s in answer["FileStatuses"]["FileStatus"]]

    # -- what pyarrow's handler asks for ---------------------------------------------------------------

    def info(self, path: str) -> dict[str, Any]:
        """Look at a file or folder."""
        return _facts(path, json.loads(self._call("GET", path, "GETFILESTATUS"))["FileStatus"])

    def isfile(self, path: str) -> bool:
        """Tell whether there is a file."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Tell whether there is a folder."""
        return self._type(path) == "directory"

    def exists(self, path: str) -> bool:
        """Tell whether there is anything."""
        return self._type(path) is not None

    def find(self, path: str, maxdepth: int | None, **_: Any) -> dict[str, dict[str, Any]]:
        """List what is below a folder, `maxdepth` 1 or at any depth."""
        found = {}
        folders = [path]
        while folders:
            below = self.listed(folders.pop())
            found.update({entry["name"]: entry for entry in below})
            if maxdepth is None:
                folders += [entry["name"] for entry in below if entry["type"] == "directory"]
        return found

    def open(self, path: str, mode: str) -> Any:
        """Open a file: "rb" reads pieces as they are asked for, "wb" gives it its name and bytes when it is closed."""
        if mode == "wb":
            return _Writer(self, path)
        return io.BufferedReader(_Reader(self, path), 1 << 20)

    def mkdir(self, path: str, create_parents: bool = True) -> None:
        """Make a folder, with those above it; one that is there is no error."""
        del create_parents  # HDFS makes them always
        self._call("PUT", path, "MKDIRS")

    def mv(self, path: str, target: str, recursive: bool = True) -> None:
        """Give a file or a folder another name, as a disk does: over a file or an empty folder, not over a full one.

        Where an earlier try did it, whose answer was lost, the source is gone and the target is there.
        """
        del recursive  # a folder goes with all that is in it
        try:
            self._rename(path, target, "OVERWRITE")
        except FileNotFoundError:
            if self.exists(path) or not self.exists(target):
                raise

    def rm(self, path: str, recursive: bool = False) -> None:
        """Remove a file or an empty folder, with `recursive` a full one; what is not there is no error."""
        self._call("DELETE", path, "DELETE", recursive=str(recursive).lower())

    def _rename(self, path: str, target: str, rule: str) -> None:
        self._call("PUT", path, "RENAME", destination=_borne(target), renameoptions=rule)

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None

    # -- HTTP ------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, op: str, data: bytes | None = None, **parameters: Any) -> bytes:
        target = f"/webhdfs/v1{quote(_borne(path))}?{urlencode({'op': op, 'user.name': self.user, **parameters})}"
        for left in reversed(range(_TRIES)):
            try:
                return self._answer(method, target, data)
            except ConnectionError:
                if not left:
                    raise
            time.sleep(_FIRST_WAIT_S * 2 ** (_TRIES - 1 - left) * random.uniform(0.5, 1))
        raise AssertionError("unreachable")

    def _answer(self, method: str, target: str, data: bytes | None) -> bytes:
        """Ask the NameNode, and the DataNode that it names; bytes are sent to a DataNode alone."""
        place = f"{self.host}:{self.port}"
        try:
            status, body, location = _exchange(method, place, target, None)
            if status == http.client.TEMPORARY_REDIRECT:
                parts = urlsplit(location)
                place = parts.netloc
                status, body, _ = _exchange(method, place, f"{parts.path}?{parts.query}", data)
        except (OSError, http.client.HTTPException) as cause:
            raise ConnectionError(f"no whole answer of WebHDFS at {place}: {type(cause).__name__}") from cause
        if status < http.client.MULTIPLE_CHOICES:
            return body
        raise _refusal(status, body)


def _borne(path: str) -> str:
    return path.replace(":", "%3A")


def _exchange(method: str, place: str, target: str, data: bytes | None) -> tuple[int, bytes, str]:
    """Make one request; a body that breaks off before its length raises IncompleteRead."""
    connection = http.client.HTTPConnection(place, timeout=_TIMEOUT_S)
    try:
        headers = {} if data is None else {"Content-Type": "application/octet-stream"}
        connection.request(method, target, data, headers)
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("Location", "")
    finally:
        connection.close()


def _refusal(status: int, body: bytes) -> OSError:
    """Name a refusal by the Java exception alone: its text holds paths, users and stack traces."""
    try:
        name = str(json.loads(body)["RemoteException"]["exception"])
    except (ValueError, KeyError, TypeError):
        name = "no name"
    told = f"{name}, HTTP status {status}"
    if name == "FileNotFoundException":
        return FileNotFoundError(told)
    if name == "FileAlreadyExistsException":
        return FileExistsError(told)
    if name in _DENIED or status == http.client.UNAUTHORIZED:
        return PermissionError(told)
    if name in _NOT_YET or status >= http.client.INTERNAL_SERVER_ERROR:
        return ConnectionError(told)
    return OSError(told)


def _facts(name: str, status: dict[str, Any]) -> dict[str, Any]:
    changed = datetime.fromtimestamp(status["modificationTime"] / 1000, UTC)
    return {"name": name, "type": status["type"].lower(), "size": status["length"], "mtime": changed}


class _Reader(io.RawIOBase):
    """A file as it is when it is opened, read by pieces."""

    def __init__(self, store: WebHdfs, path: str) -> None:
        self._store, self._path, self._position = store, path, 0
        self._size = int(store.info(path)["size"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = self._store.read(self._path, self._position, wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Writer(io.BytesIO):
    """Bytes that become a file when they are all there."""

    def __init__(self, store: WebHdfs, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self._store.create(self._path, data, replace=True)
