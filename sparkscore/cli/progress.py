"""How far a run is: a bar on a terminal, plain lines elsewhere, both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sparkscore.cli.printing import say

__all__ = ["shown_progress"]

Progress = Callable[[int, int, int, int | None, int], None]

_LINE_EVERY_S = 1.0


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Give the function that a run reports its progress to."""
    if not sys.stderr.isatty():
        yield Lines(say, time.monotonic)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("units"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[rows]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)


class Lines:
    """One line a unit, at most one a second, and one for the last unit."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._written: float | None = None
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, units: int, rows: int, planned: int | None, bad: int) -> None:
        """Tell how far the run is."""
        now = self._clock()
        self._first = self._first or (now, done)
        if done < units and self._written is not None and now - self._written < _LINE_EVERY_S:
            return
        self._written = now
        self._write(f"unit {done} of {units}: {_rows(rows, planned, bad)}{self._eta(now, done, units)}")

    def _eta(self, now: float, done: int, units: int) -> str:
        assert self._first is not None
        started, before = self._first
        if done >= units or done <= before:  # one point gives no speed
            return ""
        return f", about {(now - started) / (done - before) * (units - done):.0f} s left"


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("units", total=None, rows="")

    def __call__(self, done: int, units: int, rows: int, planned: int | None, bad: int) -> None:
        self._bar.update(self._task, completed=done, total=units, rows=_rows(rows, planned, bad))


def _rows(rows: int, planned: int | None, bad: int) -> str:
    of = "" if planned is None else f" of {planned:,}"
    return f"{rows:,}{of} rows, {bad:,} bad"
