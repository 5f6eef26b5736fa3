"""The search for the largest batch that fits in memory: halve, close in to 1.25x, hold, and try upwards again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

__all__ = ["BatchSizes", "shape_bucket"]

RATIO = 1.25
GOOD_BATCHES = 50


class BatchSizes:
    """Batch sizes of one model and shape that have worked and failed.

    Searching upwards is safe here because only failures that could be caught ever start a search: where memory runs
    out by a kill, nothing is raised and nothing is searched (`reliability.md` §4).
    """

    def __init__(self) -> None:
        self.good = 0  # largest size that worked
        self.bad: int | None = None  # smallest that did not
        self._streak = 0
        self._growing = False

    def next(self, limit: int) -> int:
        """Give the rows to try next, at most `limit` and at least 1."""
        if self.bad is None:
            size = max(self.good + 1, int(self.good * RATIO)) if self._growing else limit
        elif self.good == 0:
            size = self.bad // 2
        elif self._closed_in():
            size = self.good
        else:
            size = (self.good + self.bad) // 2
        return max(1, min(size, limit))

    @property
    def unlimited(self) -> bool:
        """Whether no size is known to fail and none is tried: then `next` gives what it is asked for, however often."""
        return self.bad is None and not self._growing

    def fitted(self, size: int) -> None:
        """Record a call that worked. Parts shorter than the size held, such as a tail, prove nothing."""
        if size < self.good:
            return
        self.good = size
        if self.bad is None:
            return
        if size >= self.bad:
            self.bad = None
        elif self._closed_in():
            self._streak += 1
        if self._streak >= GOOD_BATCHES:
            self.bad, self._streak, self._growing = None, 0, True

    def failed(self, size: int) -> None:
        """Record a call of more than one row that ran out of memory."""
        self.bad = size
        self._streak = 0
        if self.good >= size:
            self.good = 0

    def blamed(self) -> None:
        """Forget the search: one row alone was too large, so what failed with it says nothing about size."""
        self.good, self.bad, self._streak, self._growing = 0, None, 0, False

    def _closed_in(self) -> bool:
        return self.bad is not None and (self.bad <= self.good * RATIO or self.bad - self.good <= 1)


def shape_bucket(feeds: Mapping[str, NDArray[Any]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name the shape of a row, each axis rounded up to a power of two: memory is much the same within a bucket."""
    return tuple(
        (name, tuple(1 << max(size - 1, 0).bit_length() for size in array.shape[1:]))
        for name, array in sorted(feeds.items())
    )
