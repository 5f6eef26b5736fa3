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
    """What became of a batch of n rows.

    `pieces` are (rows, outputs) in ascending order: a slice of the batch and one array per output, of its length.
    `faults` are the other rows. `calls` are the rows of each call that was made.
    """

    n: int
    pieces: list[tuple[slice, list[Array]]]
    faults: dict[int, Fault]
    calls: list[slice]

    @property
    def tries(self) -> NDArray[np.int32]:
        """How many calls each row took part in, of shape (n,): asked for only where a row is bad."""
        tries = np.zeros(self.n, dtype=np.int32)
        for rows in self.calls:
            tries[rows] += 1
        return tries


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

    def score(self, feeds: Feeds, n: int) -> Outcome:
        """Score one batch.

        Parameters
        ----------
        feeds : mapping of ndarray
            Graph input -> array whose axis 0 is n rows long.
        n : int
            Rows, 0 included.

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
        For k rows that raise, calls <= 1.25 * min(2k (log2(n/k) + 1) + 1, n + 1) + 3 (`reliability.md` §4).
        Where every row raises but the known-good input is scored, the rows are at fault: all n are in `faults`.
        Where nothing was ever scored in this process, not even the warm-up input, four distinct rows that fail in
        the same way stand in for the known-good input.
        """
        search = _Search(self, feeds, n)
        self.counts.rows_scored += n
        sizes = self._sizes.setdefault(shape_bucket(feeds), BatchSizes())
        start = 0
        while start < n:
            start = self._advance(search, sizes, start)
        search.pieces.sort(key=lambda piece: piece[0].start)
        return Outcome(n, search.pieces, search.faults, search.calls)

    def _advance(self, search: _Search, sizes: BatchSizes, start: int) -> int:
        """Score the next part, as long as memory is thought to allow; give where the one after it starts."""
        size = min(sizes.next(search.n - start), search.n - start)
        failure = search.attempt(start, start + size, self._batch_timeout_s)
        if failure is None:
            sizes.fitted(size)
            self.counts.batch_target_rows = sizes.good
            return start + size
        if failure.kind is not Kind.RESOURCE:
            if not search.resolve(start, start + size, failure) and failure.kind in (Kind.TIMEOUT, Kind.CRASH):
                sizes.failed(size)  # no row hangs or kills alone: the batch was only too large for its time or memory
            return start + size
        if self._renew is not None:
            self._renew()
        if size == 1:
            search.blame(start, failure)
            sizes.blamed()
            return start + 1
        self.counts.oom_splits += 1
        logger.info("oom_split: %d rows did not fit in memory", size)
        sizes.failed(size)
        return start

    @property
    def on_gpu(self) -> bool:
        """Whether the model's memory is a GPU's: only there is an allocator renewed."""
        return self._renew is not None

    def learn(self, feeds: Feeds, row: int, seconds_per_row: float) -> None:
        """Remember the first row of the data that was scored, and the time of the fastest."""
        if not self._has_learnt:
            self.known_good = {name: array[row : row + 1].copy() for name, array in feeds.items()}
            self._has_learnt = True
        self._s_per_row = min(seconds_per_row, self._s_per_row or seconds_per_row)

    def timeout_s(self, rows: int, after: Kind) -> float | None:
        """Time of a call inside a search: short after a hang, so that finding its row does not take forever."""
        if after is not Kind.TIMEOUT or self._batch_timeout_s is None or self._s_per_row is None:
            return self._batch_timeout_s
        return min(self._batch_timeout_s, max(_MIN_TIMEOUT_S, _TIMEOUT_FACTOR * self._s_per_row * rows))


@dataclass
class _Search:
    """One batch on its way: what is resolved so far."""

    isolation: Isolation
    feeds: Feeds
    n: int
    pieces: list[tuple[slice, list[Array]]] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)
    calls: list[slice] = field(default_factory=list)
    rows_good: int = 0
    failed_before: bool = False

    def attempt(self, start: int, stop: int, timeout_s: float | None) -> Failure | None:
        """Call the model on rows [start, stop): keep the outputs, or give the failure."""
        rows = slice(start, stop)
        whole = stop - start == self.n
        feeds = self.feeds if whole else {name: array[rows] for name, array in self.feeds.items()}
        self.calls.append(rows)
        outputs = self._called(feeds, stop - start, timeout_s)
        if isinstance(outputs, Failure):
            return outputs
        self.pieces.append((rows, outputs))
        self.rows_good += stop - start
        return None

    def _called(self, feeds: Feeds, rows: int, timeout_s: float | None) -> list[Array] | Failure:
        isolation, counts = self.isolation, self.isolation.counts
        counts.model_calls += 1
        counts.bisect_calls += self.failed_before
        counts.rows_called += rows
        started = time.perf_counter()
        try:
            outputs = isolation.call(feeds, timeout_s)
        except SparkscoreError:
            raise
        except Exception as cause:  # boundary: row isolation; ONNX Runtime's errors have no common class
            failure = classified(cause, feeds)
            self.failed_before = True
            if failure.kind in (Kind.MODEL, Kind.STICKY):
                raise model_error(failure, "any row") from cause
            return failure
        finally:
            elapsed_s = time.perf_counter() - started
            counts.called(elapsed_s)
        check_lengths(outputs, rows)
        isolation.learn(feeds, rows - 1, elapsed_s / rows)
        return outputs

    def blame(self, row: int, failure: Failure) -> None:
        """Quarantine one row."""
        fault = failure.fault
        if failure.kind is Kind.RESOURCE and self.isolation.on_gpu:  # its text is that of the CPU's arena
            fault = replace(fault, error_class="G1")
        self.faults[row] = fault

    def resolve(self, start: int, stop: int, failure: Failure) -> int:
        """Find the bad rows of a part that failed; give how many there are."""
        bad_before = len(self.faults)
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
            outputs = self._called(known_good, rows, self.isolation.timeout_s(rows, first.kind))
            if isinstance(outputs, Failure):
                raise model_error(outputs, "an input that it has scored before") from outputs.cause
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
        bad_before = len(self.faults)
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
        resolved = len(self.faults) + self.rows_good
        enough = resolved >= min(ROW_BY_ROW_AFTER, self.n // 4)  # a short batch would be over before 32
        return enough and rows <= ROW_BY_ROW_ROWS and len(self.faults) > ROW_BY_ROW_FRACTION * resolved

    def _found_since(self, bad_before: int, failure: Failure) -> int:
        """Count the bad rows found since; rows that fail only together are kept, and said to be so."""
        found = len(self.faults) - bad_before
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
