"""A sink's own place as a store of manifests: what it refuses is told of the sink, not of a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.store import Store

__all__ = ["SinkStore"]


class SinkStore:
    """The store of the ledger's kind at a sink's location.

    Raises
    ------
    ClusterError
        `SPS-ENV-SINK` for what would be `SPS-ENV-LEDGER` of a ledger; other refusals as they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.root = store.root

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Create the object with all its bytes at once; False when the name is taken."""
        with _of_sink():
            return self._store.put_if_absent(name, data)

    def put(self, name: str, data: bytes) -> None:
        """Create or replace the object with all its bytes at once."""
        with _of_sink():
            self._store.put(name, data)

    def get(self, name: str) -> bytes | None:
        """Read the object, None when there is none."""
        with _of_sink():
            return self._store.get(name)

    def names(self, prefix: str) -> list[str]:
        """List the names of the folder `prefix`, not deeper, sorted."""
        with _of_sink():
            return self._store.names(prefix)


@contextmanager
def _of_sink() -> Iterator[None]:
    try:
        yield
    except SparkscoreError as refusal:
        if refusal.code != "SPS-ENV-LEDGER":
            raise
        told = refusal.message.replace("a ledger", "a sink's place", 1)
        fix = refusal.fix.replace("`ledger:`", "`sink.location`")
        raise error("SPS-ENV-SINK", told, fix, **refusal.context) from refusal
