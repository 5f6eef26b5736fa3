"""Graph outputs as result columns: an index, steps, the check of every value, and Arrow arrays on the same memory.

Types that Spark lacks leave as the next wider one: float16 as float, unsigned integers as the next signed type; uint64
as bigint, where a value beyond 2^63 - 1 makes its row bad. ``encode: binary`` keeps the model's own type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.arrow import numbers, texts
from sparkscore.runtime.encoders.lines import read_lines
from sparkscore.runtime.steps import STEPS, Ranked, value_type
from sparkscore.spec.scoring import OutputPlan

__all__ = ["OutputColumn", "output_type"]

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_WIDER = {"float16": "float32", "uint8": "int16", "uint16": "int32", "uint32": "int64", "uint64": "int64"}
_MOST = 2**31 - 1  # the offsets of Spark's lists and bytes have 32 bits
# Steps that lose a NaN or an infinity on the way: what they are given is checked too. `softmax` loses but -inf, a mask.
_FORGETS = ("argmax", "top_k", "threshold", "sigmoid", "clip")


def output_type(plan: OutputPlan) -> pa.DataType:
    """Give the Arrow type of a result column."""
    if plan.encode == "binary":
        return pa.binary()
    found = _cell_type(plan.dtype)
    for _ in range(1 if plan.encode == "flat" or plan.dtype.startswith("top_k") else plan.rank):
        found = pa.list_(found)
    return found


class OutputColumn:
    """Builds one result column from one graph output; `folder` is the model's, with the labels' files in it.

    Attributes
    ----------
    plan : OutputPlan
    arrow_type : pyarrow.DataType
        Of what `build` gives.
    needs : tuple of str
        Graph inputs that a step reads beside the output: the attention mask of `mean_pool`.
    """

    def __init__(self, plan: OutputPlan, folder: Path) -> None:
        self.plan = plan
        self.arrow_type = output_type(plan)
        first = (("index", plan.index),) if plan.index else ()
        self._steps = [(name, _argument(name, argument, folder)) for name, argument in (*first, *plan.then)]
        self.needs = tuple(str(a) for name, a in self._steps if name == "mean_pool" and a is not None)

    def build(self, array: Array, feeds: Mapping[str, Array] | None = None) -> tuple[pa.Array, Mask | None]:
        """Turn the model's output into the column.

        Parameters
        ----------
        array : ndarray, shape (n, …)
            The whole output, as the model gave it.
        feeds : mapping of ndarray, optional
            What the model was fed, for the inputs of `needs`, the same n rows.

        Returns
        -------
        column : Array of `arrow_type`, length n
            On the memory of the last step wherever Arrow can hold it as it is.
        bad : ndarray of bool, shape (n,), or None
            The rows whose value breaks `allow_nan` or `range`, or has no label; None when no row does.

        Raises
        ------
        ModelError
            SPS-MODEL-OUTPUT: the output is not of the shape that its graph declares.
        """
        value: Array | Ranked = array
        bad: Mask | None = None
        for name, argument in self._steps:
            if name in _FORGETS and isinstance(value, np.ndarray):
                bad = _either(bad, self._broken(value))
            if name == "mean_pool" and argument is not None:
                argument = (feeds or {})[str(argument)]
            try:
                value = STEPS[name].run(value, argument)
            except (IndexError, ValueError) as cause:  # numpy's words for axes that are not there
                raise self._misshapen(array, f"step {name}: {cause}") from cause
        column, last = self._ranked(value) if isinstance(value, Ranked) else self._column(value, array)
        return column, _either(bad, last)

    # -- arrays ----------------------------------------------------------------------------------------

    def _column(self, value: Array, array: Array) -> tuple[pa.Array, Mask | None]:
        rows = len(value)
        if self.plan.encode == "nested" and self.plan.rank == 0 and value.size == rows:
            value = value.reshape(rows)
        if value.ndim - 1 != self.plan.rank or value_type(value.dtype) != self.plan.dtype:
            raise self._misshapen(array, f"after its steps {value_type(value.dtype)} with {value.ndim} axes")
        if (value.nbytes if self.plan.encode == "binary" else value.size) > _MOST:
            message = (
                f"Expected at most {_MOST} values or bytes a batch in column {self.plan.column!r}, got {value.shape}."
            )
            raise error("SPS-MODEL-OUTPUT", message, "Set a smaller model.batch_size.")
        bad = _either(self._broken(value), _outside(value, self.plan.range))
        if value.dtype == object:
            bad = _either(bad, _nameless(value))
        if self.plan.encode == "binary":
            return _bytes(value), bad
        if value.dtype == np.uint64:
            over = value > np.uint64(np.iinfo(np.int64).max)
            bad = _either(bad, _some(over, rows))
        if self.plan.encode == "flat":
            value = value.reshape(rows, value.size // rows if rows else 0)
        return _nested(value), bad

    def _ranked(self, value: Ranked) -> tuple[pa.Array, Mask | None]:
        bad = _either(self._broken(value.score), _outside(value.score, self.plan.range))
        name, key = ("index", value.index) if value.label is None else ("label", value.label)
        if value.label is not None:
            bad = _either(bad, _nameless(value.label))
        pairs = pa.StructArray.from_arrays([_flat(key), _flat(value.score)], names=[name, "score"])
        return pa.ListArray.from_arrays(_offsets(*value.score.shape), pairs), bad

    # -- checks ----------------------------------------------------------------------------------------

    def _broken(self, value: Array) -> Mask | None:
        """Find rows with NaN or infinity, unless they are allowed."""
        if self.plan.allow_nan or value.dtype.kind != "f" or np.isfinite(value).all():
            return None
        return _some(~np.isfinite(value), len(value))

    def _misshapen(self, array: Array, got: str) -> SparkscoreError:
        declared = f"{self.plan.dtype} with {self.plan.rank + 1} axes"
        message = f"Expected output {self.plan.output!r} to give {declared} for column {self.plan.column!r}. Got {got}"
        fix = "Give the output its true shape in the graph, or select a part of it with an index."
        return error("SPS-MODEL-OUTPUT", f"{message}, from {array.dtype} {array.shape}.", fix)


def _argument(name: str, argument: object, folder: Path) -> object:
    return read_lines(folder / argument) if name == "labels" and isinstance(argument, str) else argument


def _either(one: Mask | None, other: Mask | None) -> Mask | None:
    if one is None or other is None:
        return one if other is None else other
    return np.logical_or(one, other)


def _some(mask: Mask, rows: int) -> Mask | None:
    """Give the rows in which something of a mask over values is set, or None."""
    if not mask.any():
        return None
    return np.asarray(mask.reshape(rows, mask.size // rows).any(axis=1))


def _nameless(texts: Array) -> Mask | None:
    """Find rows with a position that has no label: it stands as None."""
    return _some(np.array([text is None for text in texts.reshape(-1)], np.bool_), len(texts))


def _outside(value: Array, bounds: tuple[float | None, float | None] | None) -> Mask | None:
    if bounds is None:
        return None
    low, high = bounds
    mask: Mask = np.zeros(value.shape, np.bool_)
    if low is not None:
        mask = mask | (value < low)
    if high is not None:
        mask = mask | (value > high)
    return _some(mask, len(value))


def _cell_type(dtype: str) -> pa.DataType:
    if dtype.startswith("top_k:"):
        _, score, *labels = dtype.split(":")
        key = pa.field("label", pa.string()) if labels else pa.field("index", pa.int64())
        return pa.struct([key, pa.field("score", _cell_type(score))])
    return pa.string() if dtype == "str" else pa.from_numpy_dtype(np.dtype(_WIDER.get(dtype, dtype)))


def _flat(value: Array) -> pa.Array:
    """Wrap all values, in row order; numbers that Spark can hold are not copied when they lie side by side."""
    flat = value.reshape(-1)
    if flat.dtype == object:
        return texts(flat)
    wider = _WIDER.get(str(flat.dtype))
    return numbers(flat.astype(wider) if wider else flat)


def _nested(value: Array) -> pa.Array:
    """Wrap an array of shape (n, a, b …) as lists of lists, of length n."""
    column = _flat(value)
    for axis in range(value.ndim - 1, 0, -1):
        column = pa.ListArray.from_arrays(_offsets(int(np.prod(value.shape[:axis])), value.shape[axis]), column)
    return column


def _bytes(value: Array) -> pa.Array:
    """Wrap each row as its little-endian bytes."""
    stored = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    rows = len(stored)
    offsets = _offsets(rows, stored.nbytes // rows if rows else 0)
    return pa.Array.from_buffers(pa.binary(), rows, [None, offsets.buffers()[1], pa.py_buffer(stored)])


def _offsets(rows: int, step: int) -> pa.Array:
    """Give the offsets of `rows` lists of one length."""
    return numbers(np.arange(rows + 1, dtype=np.int32) * np.int32(step))
