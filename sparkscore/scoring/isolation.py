"""A model call that may fail, turned into outputs for good rows and a fault for each bad one (`reliability.md` §4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.faults import Fault
from sparkscore.scoring.counts import Counts
from sparkscore.scoring.failures import Failure, Kind, classified, model_error
from sparkscore.scoring.sizes import BatchSizes, shape_bucket

__all__ = ["Call", "Isolation", "Outcome", "check_lengths"]

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Feeds = Mapping[str, Array]

# The seam: graph input -> array with the batch on axis 0, and a timeout in seconds; one array per asked-for output.
Call = Callable[[Feeds, float | None], list[Array]]

ALWAYS_ROW_BY_ROW = 4  # rows: bisecting them takes four calls at best
ROW_BY_ROW_ROWS = 256
PATIENCE_ROWS = 12  # good rows in a row: without it, searched-for worst placements took 1.4 times the bound
ROW_BY_ROW_AFTER = 32
ROW_BY_ROW_FRACTION = 0.1
_MIN_TIMEOUT_S = 2.0
_TIMEOUT_FACTOR = 20.0


@dataclass
class Outcome:
    """What became of n rows.

    `pieces` are (rows, outputs) in ascending order: a slice of the n and one array per output, of its length.
    `faults` are the other rows. `calls` are the rows of each call that was made.
    """

    n: int
    pieces: list[tuple[slice, list[Array]]] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)
    calls: list[slice] = field(default_factory=list)

    def calls_of_rows(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Give the rows of the largest call that each row took part in, and how many did: two of shape (n,).

        Asked for only where a row is bad.
        """
        largest, tries = np.zeros((2, self.n), dtype=np.int32)
        for rows in self.calls:
            tries[rows] += 1
            largest[rows] = np.maximum(largest[rows], rows.stop - rows.start)
        return largest, tries


class Isolation:
    """Scores batches through a call and finds the rows that make it fail.

    Parameters
    ----------
    call : Call
        One model call. It raises what ONNX Runtime raises, and `CallTimeout`.
    known_good : mapping of ndarray, optional
        A batch that the model is known to score, for the question whether it still scores anything: the warm-up input
        that succeeded at session load. The first row of the data that succeeds takes its place.
    seconds_per_row : float, optional
        What a row is expected to take, until calls have shown it.
    batch_timeout_s : float, optional
        Time of one call; None for none.
    sizes : dict, optional
        Where batch sizes that fit in memory are remembered, by shape; pass `Session.sizes` to keep them.
    counts : Counts, optional
        Counters to advance.
    renew : callable, optional
        Called after a call ran out of memory, to give back what an allocator holds.
    """

    def __init__(
        self,
        call: Call,
        *,
        known_good: Feeds | None = None,
        seconds_per_row: float | None = None,
        batch_timeout_s: float | None = 60.0,
        sizes: dict[Any, BatchSizes] | None = None,
        counts: Counts | None = None,
        renew: Callable[[], None] | None = None,
    ) -> None:
        self.call = call
        self.known_good = known_good
        self.counts = Counts() if counts is None else counts
        self._has_learnt = False
        self._s_per_row = seconds_per_row
        self._batch_timeout_s = batch_timeout_s
        self._sizes = {} if sizes is None else sizes
        self._renew = renew
        self._last_shapes: list[tuple[int, ...]] | None = None
        self._last_sizes = BatchSizes()

    def score(self, feeds: Feeds, n: int, call_rows: int | None = None) -> Outcome:
        """Score rows of one shape.

        Parameters
        ----------
        feeds : mapping of ndarray
            Graph input -> array whose axis 0 is n rows long.
        n : int
            Rows, 0 included.
        call_rows : int, optional
            Of a call at most; None for one call.

        Returns
        -------
        Outcome
            Every row either in one piece or in `faults`.

        Raises
        ------
        ModelError
            ``SPS-MODEL-RUN``: the model fails on a known-good input too, within 4 calls after the first failure, or
            it cannot run at all. ``SPS-MODEL-OUTPUT``: an output has another length than its rows. No row is blamed.
        ClusterError
            ``SPS-CLUSTER-WORKER``: the GPU context is lost.

        Notes
        -----
        For k rows that raise in a call of n, calls <= 1.25 * min(2k (log2(n/k) + 1) + 1, n + 1) + 3
        (`reliability.md` §4). Where every row raises but the known-good input is scored, the rows are at fault: all n
        are in `faults`. Where nothing was ever scored in this process, not even the warm-up input, four distinct rows
        that fail in the same way stand in for the known-good input.
        """
        outcome = Outcome(n)
        self.counts.rows_scored += n
        sizes = self._sizes_for(feeds)
        start = 0
        while start < n:
            size, stop = call_rows or n, n
            if not sizes.unlimited:
                size = sizes.next(size)
                stop = min(start + size, n)
            failure = self.attempt(outcome, feeds, slice(start, stop), size, timeout_s=self._batch_timeout_s)
            last = outcome.calls[-1]
            scored = (last.stop if failure is None else last.start) - start
            if scored:
                sizes.fitted(min(size, scored))
                self.counts.batch_target_rows = sizes.good
            if failure is None:
                start = last.stop
            else:
                start = self._after(failure, _Search(self, outcome, feeds, last), sizes)
        if len(outcome.pieces) < len(outcome.calls):
            outcome.pieces.sort(key=lambda piece: piece[0].start)
        return outcome

    def _sizes_for(self, feeds: Feeds) -> BatchSizes:
        shapes = [array.shape[1:] for array in feeds.values()]
        if shapes != self._last_shapes:
            self._last_sizes = self._sizes.setdefault(shape_bucket(feeds), BatchSizes())
            self._last_shapes = shapes
        return self._last_sizes

    def attempt(
        self, outcome: Outcome, feeds: Feeds, rows: slice, size: int, *, timeout_s: float | None
    ) -> Failure | None:
        """Call the model on `size` of the rows after the other, until a call fails: keep the outputs, give the failure.

        Between two calls is as little as can be. A call leaves nothing of Python in the caches, so that a line there
        costs five times what it does elsewhere (docs/decisions/0037).
        """
        first_piece = len(outcome.pieces)
        call, clock, failure = self.call, time.perf_counter, None
        spent_s, started = [], clock()
        for start in range(rows.start, rows.stop, size):
            called = slice(start, min(start + size, rows.stop))
            outcome.calls.append(called)
            part = {name: array[called] for name, array in feeds.items()}
            try:
                outcome.pieces.append((called, call(part, timeout_s)))
            except SparkscoreError:
                raise
            except Exception as cause:  # boundary: row isolation; ONNX Runtime's errors have no common class
                failure = classified(cause, part)
                break
            finally:
                ended = clock()
                spent_s.append(ended - started)
                started = ended
        self.counts.called(spent_s, outcome.calls[-1].stop - rows.start)
        pieces = outcome.pieces[first_piece:]
        for called, outputs in pieces:
            check_lengths(outputs, called.stop - called.start)
        if pieces:
            self.learn(feeds, pieces[0][0], spent_s[0])
        if failure is not None and failure.kind in (Kind.MODEL, Kind.STICKY):
            raise model_error(failure, "any row") from failure.cause
        return failure

    def learn(self, feeds: Feeds, rows: slice, seconds: float) -> None:
        """Remember the first row of the data that was scored, and the least time a row: of calls that begin a batch."""
        if not self._has_learnt:
            self.known_good = {name: array[rows.start : rows.start + 1].copy() for name, array in feeds.items()}
            self._has_learnt = True
        seconds_per_row = seconds / (rows.stop - rows.start)
        if self._s_per_row is None or seconds_per_row < self._s_per_row:
            self._s_per_row = seconds_per_row

    def _after(self, failure: Failure, search: _Search, sizes: BatchSizes) -> int:
        """Go on after a call that failed; give where the next one starts."""
        start: int = search.rows.start
        stop: int = search.rows.stop
        if failure.kind is not Kind.RESOURCE:
            found = search.resolve(start, stop, failure)
            if not found and failure.kind in (Kind.TIMEOUT, Kind.CRASH):
                sizes.failed(stop - start)  # no row hangs or kills alone: too many for their time or memory
            return stop
        if self._renew is not None:
            self._renew()
        if stop - start == 1:
            search.blame(start, failure)
            sizes.blamed()
            return stop
        self.counts.oom_splits += 1
        logger.info("oom_split: %d rows did not fit in memory", stop - start)
        sizes.failed(stop - start)
        return start

    @property
    def on_gpu(self) -> bool:
        """Whether the model's memory is a GPU's: only there is an allocator renewed."""
        return self._renew is not None

    def timeout_s(self, rows: int, after: Kind) -> float | None:
        """Time of a call inside a search: short after a hang, so that finding its row does not take forever."""
        if after is not Kind.TIMEOUT or self._batch_timeout_s is None or self._s_per_row is None:
            return self._batch_timeout_s
        return min(self._batch_timeout_s, max(_MIN_TIMEOUT_S, _TIMEOUT_FACTOR * self._s_per_row * rows))


@dataclass
class _Search:
    """The search for the bad rows of one call that failed, and what it has found so far."""

    isolation: Isolation
    outcome: Outcome
    feeds: Feeds
    rows: slice
    rows_good: int = 0
    rows_bad: int = 0

    def attempt(self, start: int, stop: int, timeout_s: float | None) -> Failure | None:
        """Call the model on rows [start, stop): keep the outputs, or give the failure."""
        self.isolation.counts.bisect_calls += 1
        failure = self.isolation.attempt(
            self.outcome, self.feeds, slice(start, stop), stop - start, timeout_s=timeout_s
        )
        if failure is None:
            self.rows_good += stop - start
        return failure

    def blame(self, row: int, failure: Failure) -> None:
        """Quarantine one row."""
        fault = failure.fault
        if failure.kind is Kind.RESOURCE and self.isolation.on_gpu:  # its text is that of the CPU's arena
            fault = replace(fault, error_class="G1")
        self.outcome.faults[row] = fault
        self.rows_bad += 1

    def resolve(self, start: int, stop: int, failure: Failure) -> int:
        """Find the bad rows of a part that failed; give how many there are."""
        bad_before = self.rows_bad
        if stop - start == 1:
            self.blame(start, failure)
            return 1
        for a, b in self._after_probes(start, stop, failure):
            self._attempt_and_split(a, b, failure)
        return self._found_since(bad_before, failure)

    def _after_probes(self, start: int, stop: int, failure: Failure) -> list[tuple[int, int]]:
        """Probe the first row, and the middle one if that fails; give the parts that are still open."""
        middle = (start + stop) // 2
        first = self._probe(start, failure)
        if first is None:
            return [*_gaps(start, middle, [start]), (middle, stop)]
        probed = [start, middle]
        second = self._probe(middle, failure)
        if second is not None and second.error_type == first.error_type:
            probed += self._ask_whether_anything_works(start, stop, first)
        return _gaps(start, stop, probed)

    def _probe(self, row: int, failure: Failure) -> Failure | None:
        alone = self.attempt(row, row + 1, self.isolation.timeout_s(1, failure.kind))
        if alone is not None:
            self.blame(row, alone)
        return alone

    def _ask_whether_anything_works(self, start: int, stop: int, first: Failure) -> list[int]:
        """Raise if the model fails on everything; give the rows that were probed to find out."""
        known_good = self.isolation.known_good
        if known_good is not None:
            rows = len(next(iter(known_good.values())))
            timeout_s = self.isolation.timeout_s(rows, first.kind)
            self.isolation.counts.bisect_calls += 1
            again = self.isolation.attempt(Outcome(rows), known_good, slice(0, rows), rows, timeout_s=timeout_s)
            if again is not None:
                raise model_error(again, "an input that it has scored before") from again.cause
            return []
        quarter = (stop - start) // 4
        if quarter == 0:
            return []
        rows_probed = [start + quarter, start + 3 * quarter]
        if rows_probed[1] == (start + stop) // 2:
            rows_probed[1] += 1
        found = [self._probe(row, first) for row in rows_probed]
        if all(f is not None and f.error_type == first.error_type for f in found):
            raise model_error(first, "any row: it has never scored one, nor its warm-up input") from first.cause
        return rows_probed

    def _attempt_and_split(self, start: int, stop: int, above: Failure) -> None:
        failure = self.attempt(start, stop, self.isolation.timeout_s(stop - start, above.kind))
        if failure is not None:
            self._split(start, stop, failure)

    def _split(self, start: int, stop: int, failure: Failure) -> None:
        """Search rows [start, stop), which fail together, depth first."""
        if stop - start == 1:
            self.blame(start, failure)
            return
        bad_before = self.rows_bad
        if self._row_by_row_pays(stop - start):
            self._row_by_row(start, stop, failure)
        else:
            middle = (start + stop) // 2
            self._attempt_and_split(start, middle, failure)
            self._attempt_and_split(middle, stop, failure)
        self._found_since(bad_before, failure)

    def _row_by_row(self, start: int, stop: int, failure: Failure) -> None:
        """Call each row alone, until so many good ones follow each other that the rest is better called at once."""
        good_in_a_row = 0
        for row in range(start, stop):
            if good_in_a_row == PATIENCE_ROWS and stop - row > ALWAYS_ROW_BY_ROW:
                self._attempt_and_split(row, stop, failure)
                return
            alone = self._probe(row, failure)
            good_in_a_row = good_in_a_row + 1 if alone is None else 0

    def _row_by_row_pays(self, rows: int) -> bool:
        """Bisecting stops paying at 10 to 15 % bad rows; a switch for the rest of the batch misfires on clusters."""
        if rows <= ALWAYS_ROW_BY_ROW:
            return True
        resolved = self.rows_bad + self.rows_good
        n = self.rows.stop - self.rows.start
        enough = resolved >= min(ROW_BY_ROW_AFTER, n // 4)  # a short batch would be over before 32
        return enough and rows <= ROW_BY_ROW_ROWS and self.rows_bad > ROW_BY_ROW_FRACTION * resolved

    def _found_since(self, bad_before: int, failure: Failure) -> int:
        """Count the bad rows found since; rows that fail only together are kept, and said to be so."""
        found = self.rows_bad - bad_before
        if not found and failure.kind is Kind.RESOURCE:
            self.isolation.counts.oom_splits += 1
        elif not found:
            self.isolation.counts.batch_mix += 1
            logger.warning("batch_mix: rows that fail together (%s) are scored apart", failure.error_type)
        return found


def check_lengths(outputs: Iterable[Array], rows: int) -> None:
    """Check that each output has one entry a row.

    Raises
    ------
    ModelError
        ``SPS-MODEL-OUTPUT``.
    """
    for position, array in enumerate(outputs):
        shape = getattr(array, "shape", None)
        if not shape or shape[0] != rows:
            got = "no tensor" if shape is None else f"shape {shape}"
            raise error(
                "SPS-MODEL-OUTPUT",
                f"Expected output {position} of the call to have one entry for each of {rows} rows. Got {got}.",
                "Select an output whose first axis is the batch, or set model.batch_size: 1.",
            )


def _gaps(start: int, stop: int, rows: Iterable[int]) -> list[tuple[int, int]]:
    """Cut single rows out of [start, stop)."""
    edges = [start - 1, *sorted(rows), stop]
    return [(a + 1, b) for a, b in pairwise(edges) if b > a + 1]
