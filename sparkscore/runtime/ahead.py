"""An iterator made on a thread of its own, a few items ahead of who takes them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")
_JOIN_S = 0.05  # between two looks at whether a stopped thread waits for room


@dataclass(frozen=True)
class _End:
    cause: BaseException | None = None


def ahead(items: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """Make at most `depth` items before they are asked for.

    Parameters
    ----------
    items : iterator
        Used by the thread alone. What it raises is raised here, after the items before it.
    depth : int
        How many finished items wait; one more is being made.

    Yields
    ------
    object
        The items, in order. When this iterator is exhausted or closed the thread has ended: it makes no item after
        the one that it is at.
    """
    ready: Queue[T | _End] = Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_make, args=(items, ready, stopped), name="sparkscore-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.cause is not None:
            raise item.cause
    finally:
        stopped.set()
        while thread.is_alive():
            with suppress(Empty):  # it may wait for room
                ready.get_nowait()
            thread.join(_JOIN_S)


def _make(items: Iterator[T], ready: Queue[T | _End], stopped: threading.Event) -> None:
    try:
        for item in items:
            ready.put(item)
            if stopped.is_set():
                return
    except BaseException as cause:  # boundary: raised again in the thread that takes the items
        ready.put(_End(cause))
    else:
        ready.put(_End())
