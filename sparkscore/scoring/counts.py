"""What a scorer did, in numbers: the receipt of a task is made of them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

__all__ = ["CALL_BOUNDS_S", "MAX_SAMPLES", "TEXT_COUNTS", "Counts", "Sample"]

CALL_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

TEXT_COUNTS = ("rows_truncated", "tokens", "tokens_computed")

MAX_SAMPLES = 20


@dataclass(frozen=True)
class Sample:
    """One bad row, without anything of its content."""

    pointer: str | None
    code: str
    error_class: str


@dataclass
class Counts:
    """Counters of one scorer; rows unless the name says otherwise.

    Attributes
    ----------
    rows_in, rows_ok, rows_bad : int
        rows_in = rows_ok + rows_bad + sum of rows_filtered, once the input is exhausted.
    bad_by_code : dict of int
        Error code -> rows; adds up to rows_bad.
    rows_filtered : dict of int
        Index of the prepare step -> rows that it dropped.
    rows_truncated : int
        Rows whose text was cut to max_tokens.
    tokens, tokens_computed : int
        Of the texts that the model was called with, and what it computed with their padding.
    rows_scored : int
        Rows that reached the model, each once; of rows with the same texts in a batch one does.
    rows_called : int
        Rows summed over all calls; padding is not counted, repetitions by bisection are.
    model_calls, bisect_calls : int
        All calls, and those of them that looked for the bad rows of one that had failed.
    proof_calls : int
        Calls of the batch-dependence test, in none of the other counters.
    batch_mix, oom_splits : int
        Batches that fail only together; calls halved for want of memory.
    guard_deaths : int
        Guarded processes that died in a call; 0 too where none was used.
    copied_bytes : int
        Bytes copied between Arrow and the tensors.
    model_ms : float
        Milliseconds in model calls.
    call_buckets : list of int
        Model calls by what they took: up to each of `CALL_BOUNDS_S` and over the one before, and longer ones.
    batch_target_rows : int
        Rows of a call that are known to fit in memory: the largest so far, 0 before the first.
    error_samples : list of Sample
        The first bad rows, at most 20.
    """

    rows_in: int = 0
    rows_ok: int = 0
    rows_bad: int = 0
    bad_by_code: dict[str, int] = field(default_factory=dict)
    rows_filtered: dict[int, int] = field(default_factory=dict)
    rows_truncated: int = 0
    tokens: int = 0
    tokens_computed: int = 0
    rows_scored: int = 0
    rows_called: int = 0
    model_calls: int = 0
    bisect_calls: int = 0
    proof_calls: int = 0
    batch_mix: int = 0
    oom_splits: int = 0
    guard_deaths: int = 0
    copied_bytes: int = 0
    model_ms: float = 0.0
    call_buckets: list[int] = field(default_factory=lambda: [0] * (len(CALL_BOUNDS_S) + 1))
    batch_target_rows: int = 0
    error_samples: list[Sample] = field(default_factory=list)

    def called(self, spent_s: list[float], rows: int) -> None:
        """Count model calls: what each took, and the rows of all of them."""
        self.model_calls += len(spent_s)
        self.rows_called += rows
        self.model_ms += sum(spent_s) * 1000
        buckets, bounds = self.call_buckets, CALL_BOUNDS_S
        for elapsed_s in spent_s:
            buckets[bisect_left(bounds, elapsed_s)] += 1

    def sample(self, pointer: str | None, code: str, error_class: str) -> None:
        """Remember a bad row, while there is room."""
        if len(self.error_samples) < MAX_SAMPLES:
            self.error_samples.append(Sample(pointer, code, error_class))
