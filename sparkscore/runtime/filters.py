"""A filter of comparisons, evaluated on Arrow batches as Spark evaluates it: its NaN, its null, its two zeros."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkscore.runtime.arrow import numbers, texts

__all__ = ["kept"]

_OPS: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def kept(one: tuple[Any, ...], columns: Mapping[str, pa.Array]) -> pa.BooleanArray:
    """Say of each row whether it meets a filter (`sparkscore.spec.filters`).

    Parameters
    ----------
    one : tuple
        The filter; no literal in it is NaN.
    columns : mapping
        Name -> array, of the filter's columns at least.

    Returns
    -------
    BooleanArray
        Null where Spark's is null: only true keeps a row.

    Notes
    -----
    To Spark, NaN is equal to itself and greater than every other number; to Arrow it is neither. Of the comparisons
    with a literal, `>` and `>=` alone differ for that. Floats are compared as float64, as Spark does with a literal.
    """
    op = one[0]
    if op == "and":
        return pc.and_kleene(kept(one[1], columns), kept(one[2], columns))
    if op == "or":
        return pc.or_kleene(kept(one[1], columns), kept(one[2], columns))
    if op == "not":
        return pc.invert(kept(one[1], columns))
    column = columns[one[1]]
    if op == "null":
        return column.is_null()
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        found = _OPS[op](column, _scalar(float(one[2])))
        return pc.or_kleene(found, pc.is_nan(column)) if op in (">", ">=") else found
    if pa.types.is_integer(column.type):
        column = column.cast(pa.int64())
    return _OPS[op](column, _scalar(one[2]))


def _scalar(value: object) -> pa.Scalar:
    if isinstance(value, str):
        return texts([value])[0]
    if isinstance(value, dt.date):
        days = (value - dt.date(1970, 1, 1)).days
        return numbers(np.array([days], np.int32)).view(pa.date32())[0]
    return numbers(np.array([value]))[0]
