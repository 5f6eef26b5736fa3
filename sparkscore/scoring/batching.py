"""Arrow batches of any length cut and merged to what the scorer takes at once, and that cut into model calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.runtime.encoders import Group
from sparkscore.runtime.providers import CPU
from sparkscore.spec.scoring import Image, InputPlan, ScoringPlan, Text

__all__ = ["auto_rows", "call_rows", "micro_batches", "most_rows", "rebatch", "window_rows"]

AUTO_ROWS = 8192
MOST_ROWS = 65_536  # that are encoded at once: what Python does for a batch is then small beside its rows
AUTO_BYTES = 8 * 1024 * 1024
AUTO_TOKENS = 16384
LARGE_BYTES = 1024 * 1024  # of a model, from which a row takes microseconds on a CPU
LARGE_ROWS = 1024
WINDOW_ROWS = 10_000
WINDOW_BYTES = 64 * 1024 * 1024
SLACK = 1.25
SPREAD = 1.1  # of the lengths in a call: longest over shortest
MIN_ROWS = 8  # of a call that ends because of the spread


def rebatch(
    batches: Iterable[pa.RecordBatch], rows: int, slack: float = SLACK, most: int = 0
) -> Iterator[pa.RecordBatch]:
    """Cut long batches and merge short ones; order and rows stay, and only the last batch is short.

    Parameters
    ----------
    batches : iterable of RecordBatch
        Of one schema; empty ones vanish.
    rows : int
        Target length.
    slack : float
        A batch between rows / slack and rows * slack is passed on as it is, when nothing waits before it: cutting
        Spark's 10,000 rows to 8,192 would cost a copy for each second batch. 1.0 for exact lengths.
    most : int
        So is one of up to so many rows.

    Where rows are large, fewer are taken at once: about 64 MiB of them. The first batch, by which `rows` is chosen, may
    have had small ones.

    Yields
    ------
    RecordBatch
        Slices of the input (no copy) wherever one input batch is enough.
    """
    waiting: list[pa.RecordBatch] = []
    held = 0
    most = max(most, int(rows * slack))
    for batch in batches:
        start = 0
        fit = max(1, min(rows, WINDOW_BYTES * batch.num_rows // max(1, batch.nbytes)))
        while start < batch.num_rows:
            left = batch.num_rows - start
            if not held and fit / slack <= left <= (most if fit == rows else fit * slack):
                yield batch.slice(start) if start else batch
                break
            part = batch.slice(start, max(1, min(fit - held, left)))
            waiting.append(part)
            held += part.num_rows
            start += part.num_rows
            if held >= fit:
                yield _merged(waiting)
                waiting, held = [], 0
    if waiting:
        yield _merged(waiting)


def _merged(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)


def auto_rows(plan: ScoringPlan, sample: pa.RecordBatch) -> int:
    """Choose how many rows are scored at once for ``batch_size: auto``, by their size.

    Parameters
    ----------
    plan : ScoringPlan
        Its inputs give the bytes of a row where their shapes are fixed.
    sample : RecordBatch
        The first rows; their size in Arrow stands in for free dimensions.

    Returns
    -------
    int
        min(8192, 8 MiB / bytes of a row), at least 1.

    Notes
    -----
    8,192 rows: 106 to 110 ns a row for a small network between 1,000 and 8,000 rows, 209 at 64, 149 at 64,000, where
    caches overflow (performance.md §7). 8 MiB of feeds keeps wide rows and images within a few caches' worth.
    """
    return max(1, min(AUTO_ROWS, int(AUTO_BYTES / _widest_bytes(plan, sample))))


def call_rows(scored_rows: int, model_bytes: int, provider: str) -> int:
    """Choose how many of the rows that are scored at once are about one call, under ``batch_size: auto``.

    Parameters
    ----------
    scored_rows : int
        From `auto_rows`.
    model_bytes : int
        Of the model's files.
    provider : str
        The execution provider that runs.

    Returns
    -------
    int
        At most 1,024 for a model of 1 MiB and more on a CPU: what its wide layers hold between them stays in the cache
        (26.8 us a row, not 30.7, for a network 200-1024-1024-1), and the cost of a call is small beside its time.
        It depends on nothing that is measured, so that the same rows give the same bits on each machine of a kind.
    """
    is_large = provider == CPU and model_bytes >= LARGE_BYTES
    return min(scored_rows, LARGE_ROWS) if is_large else scored_rows


def window_rows(plan: ScoringPlan, sample: pa.RecordBatch) -> int:
    """Choose the rows that are encoded at once: those of a call, or a window in which texts are sorted by length.

    Returns
    -------
    int
        `auto_rows`; where a text feeds the model min(10,000, 64 MiB / bytes of a row), at least 1.
    """
    if not _has_text(plan):
        return auto_rows(plan, sample)
    return max(1, min(WINDOW_ROWS, int(WINDOW_BYTES / _widest_bytes(plan, sample))))


def most_rows(plan: ScoringPlan, sample: pa.RecordBatch, model_bytes: int, provider: str) -> int:
    """Choose up to how many rows are encoded at once where they come in one batch; 0 to keep to `window_rows`.

    Returns
    -------
    int
        min(65,536, 8 MiB / bytes of a row) for a model of less than 1 MiB on a CPU that gives a number a row: 310 CPU
        ns a row of 30 floats, 430 with batches of 8,192 (docs/decisions/0033). Where a model takes longer there is
        nothing to gain, and outputs of any width would be held for all rows of the batch; texts have their window.
    """
    is_small = provider == CPU and model_bytes < LARGE_BYTES
    gives_numbers = all(output.rank == 0 and not output.dtype.startswith("top_k") for output in plan.outputs)
    if not is_small or not gives_numbers or _has_text(plan):
        return 0
    return int(min(MOST_ROWS, AUTO_BYTES / _widest_bytes(plan, sample)))


def micro_batches(
    group: Group, rows: int | None, about_rows: int
) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]], int]]:
    """Say which rows of one shape are fed together, and how many a model call takes.

    Parameters
    ----------
    group : Group
        The rows. Texts are taken by length, the longest first, so that a call pads little (performance.md §9).
    rows : int, optional
        Rows of each call but the last. None: even parts of `about_rows`; a call of texts ends before its tokens,
        padded, are more than 16,384, and where it has 8 rows before the longest is more than 1.1 times the shortest.
    about_rows : int
        Of a call under None; of texts at most.

    Yields
    ------
    rows : ndarray of int64, shape (k,)
        Of `group`, each once: all of them; of texts those of one call.
    feeds : dict of ndarray
        Theirs; of texts made when they are asked for, because each call has a length of its own.
    call_rows : int
        Of each call, and of the last at most.
    """
    if group.lengths is None:
        n = len(group.rows)
        yield group.rows, group.feeds, rows or -(-n // max(1, round(n / about_rows)))
        return
    order = np.argsort(-group.lengths, kind="stable")
    lengths = group.lengths[order]
    start = 0
    while start < len(order):
        stop = start + (rows or _rows_of_text(lengths[start:], about_rows))
        chosen = group.rows[order[start:stop]]
        yield chosen, group.feeds_of(chosen), len(chosen)
        start = stop


def _rows_of_text(lengths: NDArray[np.int64], most_rows: int) -> int:
    """Give how many of the first rows, by falling length, make a call."""
    longest = max(int(lengths[0]), 1)
    alike = int(np.searchsorted(-lengths, -longest / SPREAD, side="right"))
    return max(1, min(most_rows, AUTO_TOKENS // longest, max(alike, MIN_ROWS)))


def _has_text(plan: ScoringPlan) -> bool:
    return any(isinstance(part, Text) for entry in plan.inputs for part in entry.parts)


def _widest_bytes(plan: ScoringPlan, sample: pa.RecordBatch) -> float:
    fixed_bytes = sum(_row_bytes(entry) for entry in plan.inputs)
    columns = [name for name in plan.columns if name in sample.schema.names]
    arrow_bytes = sum(sample.column(name).nbytes for name in columns) / max(sample.num_rows, 1)
    return float(max(fixed_bytes, arrow_bytes, 1))


def _row_bytes(entry: InputPlan) -> int:
    itemsize = 8 if entry.dtype == "str" else np.dtype(entry.dtype).itemsize
    shape: tuple[int | None, ...] = entry.row_shape
    for part in entry.parts:
        if isinstance(part, Image):
            shape = (*part.size, 3)
        elif isinstance(part, Text):
            shape = ()  # how many tokens a call has is `micro_batches`' to say
    return itemsize * prod(1 if size is None else size for size in shape)
