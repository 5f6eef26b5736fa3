"""The batch-dependence test: a row must score the same among other rows as among its own copies (`pipeline.md` §7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.errors import SparkscoreError, error
from sparkscore.scoring.isolation import Call

__all__ = ["MAX_ROWS", "agree", "distinct_rows", "mixes_rows", "prove_independence"]

MAX_ROWS = 8
_LOOK_AT_ROWS = 1024
_TOLERANCE = {"float16": (1e-2, 1e-2)}  # rtol, atol by dtype
_DEFAULT_TOLERANCE = (1e-3, 1e-5)

Array = NDArray[Any]
Feeds = Mapping[str, Array]


def distinct_rows(feeds: Feeds, rows: Sequence[int], limit: int = MAX_ROWS) -> list[int]:
    """Choose up to `limit` of `rows` that differ in what they feed, looking at the first 1,024."""
    chosen: dict[tuple[Any, ...], int] = {}
    for row in rows[:_LOOK_AT_ROWS]:
        chosen.setdefault(tuple(_content(array[row]) for array in feeds.values()), row)
        if len(chosen) == limit:
            break
    return list(chosen.values())


def _content(cell: Any) -> Any:
    array = np.asarray(cell)
    return tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()


def prove_independence(
    call: Call,
    feeds: Feeds,
    rows: Sequence[int],
    names: Sequence[str],
    timeout_s: float | None = None,
    *,
    fixed_batch: int | None = None,
) -> int:
    """Compare each row among the others with the same row alone.

    Parameters
    ----------
    call : Call
        A model call. Where the graph's batch axis is fixed it pads with the last row, so that a row alone becomes a
        batch of its own copies.
    feeds : mapping of ndarray
        Graph input -> array with the batch on axis 0.
    rows : sequence of int
        Two to eight rows that the model scores, from `distinct_rows`.
    names : sequence of str
        The outputs that the call gives, for the message.
    timeout_s : float, optional
        Time of each call.
    fixed_batch : int, optional
        The graph's own fixed batch axis, for the fix.

    Returns
    -------
    int
        The calls made: one for the rows together, one for each.

    Raises
    ------
    ModelError
        ``SPS-MODEL-BATCH``: floats beyond rtol 1e-3 and atol 1e-5 (float16: 1e-2), or any other type unequal; NaN
        equals NaN.
    """
    among = call({name: array[list(rows)] for name, array in feeds.items()}, timeout_s)
    for position, row in enumerate(rows):
        alone = call({name: array[row : row + 1] for name, array in feeds.items()}, timeout_s)
        for name, together, single in zip(names, among, alone, strict=True):
            if not agree(together[position], single[0]):
                got = f"another value of output '{name}'{_distance(together[position], single[0])}"
                raise mixes_rows(got, fixed_batch)
    return 1 + len(rows)


def mixes_rows(got: str, fixed_batch: int | None = None) -> SparkscoreError:
    """Build the error for a graph that mixes the rows of a batch; a fixed batch axis leaves `batch_size` no say."""
    fix = "or set model.batch_size: 1."
    if fixed_batch is not None:
        fix = f"or with a batch axis of 1: this graph's is fixed at {fixed_batch}, whatever model.batch_size says."
    return error(
        "SPS-MODEL-BATCH",
        f"Expected a row to score the same among other rows as alone. Got {got}: the graph mixes the rows of a batch.",
        f"Export the model in inference mode (no batch statistics), {fix}",
    )


def agree(together: Array, alone: Array) -> bool:
    """Whether two outputs of one row are the same within the tolerance of their dtype."""
    a, b = np.asarray(together), np.asarray(alone)
    if a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    rtol, atol = _TOLERANCE.get(a.dtype.name, _DEFAULT_TOLERANCE)
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True))


def _distance(together: Array, alone: Array) -> str:
    if np.shape(together) != np.shape(alone) or np.asarray(together).dtype.kind != "f":
        return ""
    gap = np.abs(np.asarray(together, np.float64) - np.asarray(alone, np.float64))
    return f" ({np.nanmax(gap):.3g} apart)" if np.isfinite(gap).any() else ""
