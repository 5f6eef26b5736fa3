"""The ledger on HDFS: `put_if_absent` is an upload beside the name and a rename, which a name that is taken refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.files import webhdfs

__all__ = ["HdfsStore"]


class HdfsStore:
    """Objects below ``hdfs://namenode/folder``, by WebHDFS.

    What the NameNode refuses is a `ClusterError`: `SPS-ENV-ACCESS`, `SPS-ENV-LEDGER`, or, where it gives no answer,
    `SPS-CLUSTER-STORAGE`. It tells the name of the refusal only.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        namenode, _, folder = self.root.partition("://")[2].partition("/")
        if not namenode or not folder:
            raise error(
                "SPS-ENV-LEDGER",
                f"Expected a ledger at hdfs://namenode/folder. Got {root!r}.",
                "Correct `ledger:`; the NameNode is named by its host, with or without its port.",
            )
        self._folder = f"/{folder}"
        self._client = webhdfs(namenode)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Create the object with all its bytes at once; False when the name is taken.

        Durable on return: the name stands in the NameNode's journal, the bytes in the memory of each DataNode that
        HDFS copied them to, and on their disks where it is told to sync (`dfs.datanode.synconclose`).
        """
        with self._access(name), suppress(FileExistsError):
            self._client.create(self._path(name), data, replace=False)
            return True
        return False

    def put(self, name: str, data: bytes) -> None:
        """Create or replace the object with all its bytes at once."""
        with self._access(name):
            self._client.create(self._path(name), data, replace=True)

    def get(self, name: str) -> bytes | None:
        """Read the object, None when there is none."""
        with self._access(name), suppress(FileNotFoundError):
            return self._client.read(self._path(name))
        return None

    def names(self, prefix: str) -> list[str]:
        """List the folder, leaving out files that are still being written; a colon is one again."""
        with self._access(prefix), suppress(FileNotFoundError):
            found = (entry["name"].rpartition("/")[2] for entry in self._client.listed(self._path(prefix)))
            return sorted(name.replace("%3A", ":") for name in found if not name.startswith("."))
        return []

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    @contextmanager
    def _access(self, name: str) -> Iterator[None]:
        """Give a refusal as an error of ours."""
        try:
            yield
        except OSError as cause:
            raise self._refusal(name, cause) from cause

    def _refusal(self, name: str, cause: OSError) -> SparkscoreError:
        if isinstance(cause, PermissionError):
            code, fix = "SPS-ENV-ACCESS", "Give this user, or HADOOP_USER_NAME, the permission to read and write there."
        elif isinstance(cause, ConnectionError):
            code = "SPS-CLUSTER-STORAGE"
            fix = "Look at the NameNode and at SPARKSCORE_WEBHDFS_PORT, its HTTP port; the same run id goes on."
        else:
            code, fix = "SPS-ENV-LEDGER", "Correct `ledger:`; the NameNode's log has the whole refusal."
        wanted = f"Expected a ledger at {self.root} that answers. Got {type(cause).__name__}: {cause}."
        return error(code, wanted, fix, file=f"{self.root}/{name}")
