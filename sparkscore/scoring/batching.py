"""Arrow batches of any length cut and merged to the length that the model is called with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import numpy as np
import pyarrow as pa

from sparkscore.spec.scoring import Image, InputPlan, ScoringPlan, Text

__all__ = ["auto_rows", "rebatch"]

AUTO_ROWS = 8192
AUTO_BYTES = 8 * 1024 * 1024
AUTO_TOKENS = 16384
SLACK = 1.25


def rebatch(batches: Iterable[pa.RecordBatch], rows: int, slack: float = SLACK) -> Iterator[pa.RecordBatch]:
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

    Yields
    ------
    RecordBatch
        Slices of the input (no copy) wherever one input batch is enough.
    """
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            left = batch.num_rows - start
            if not held and rows / slack <= left <= rows * slack:
                yield batch.slice(start) if start else batch
                break
            part = batch.slice(start, min(rows - held, left))
            waiting.append(part)
            held += part.num_rows
            start += part.num_rows
            if held == rows:
                yield _merged(waiting)
                waiting, held = [], 0
    if waiting:
        yield _merged(waiting)


def _merged(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)


def auto_rows(plan: ScoringPlan, sample: pa.RecordBatch) -> int:
    """Choose the rows of a model call for ``batch_size: auto``.

    Parameters
    ----------
    plan : ScoringPlan
        Its inputs give the bytes of a row where their shapes are fixed, and the tokens of a text.
    sample : RecordBatch
        The first rows; their size in Arrow stands in for free dimensions.

    Returns
    -------
    int
        min(8192, 8 MiB / bytes of a row, 16,384 / max_tokens), at least 1.

    Notes
    -----
    8,192 rows: 106 to 110 ns a row for a small network between 1,000 and 8,000 rows, 209 at 64, 149 at 64,000, where
    the caches overflow (performance.md §7). 8 MiB of feeds keeps wide rows and images within a few caches' worth.
    16,384 tokens is the token budget of performance.md §9: activations of text grow with rows x tokens.
    """
    fixed_bytes = sum(_row_bytes(entry) for entry in plan.inputs)
    columns = [name for name in plan.columns if name in sample.schema.names]
    arrow_bytes = sum(sample.column(name).nbytes for name in columns) / max(sample.num_rows, 1)
    rows = min(AUTO_ROWS, int(AUTO_BYTES / max(fixed_bytes, arrow_bytes, 1)))
    texts = [part for entry in plan.inputs for part in entry.parts if isinstance(part, Text)]
    return max(1, min([rows, *(AUTO_TOKENS // text.max_tokens for text in texts)]))


def _row_bytes(entry: InputPlan) -> int:
    itemsize = 8 if entry.dtype == "str" else np.dtype(entry.dtype).itemsize
    shape: tuple[int | None, ...] = entry.row_shape
    for part in entry.parts:
        if isinstance(part, Image):
            shape = (*part.size, 3)
        elif isinstance(part, Text):
            shape = (part.max_tokens,)
    return itemsize * prod(1 if size is None else size for size in shape)
