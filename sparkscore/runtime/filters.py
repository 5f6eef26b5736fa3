"""A filter of comparisons, evaluated on Arrow batches as Spark evaluates it: its NaN, its null, its two zeros."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkscore.runtime.arrow import numbers, texts

__all__ = ["kept", "may_hold"]

_OPS: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}

_NOT = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


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


def may_hold(one: tuple[Any, ...], spans: Mapping[str, tuple[Any, Any]], wanted: bool = True) -> bool:
    """Say whether a filter may be true of a row, or false where that is wanted, by what its columns hold.

    Parameters
    ----------
    one : tuple
        The filter.
    spans : mapping
        Column of integers, days or texts -> its least and greatest value, or values below and above; texts as bytes of
        UTF-8. A column that is not in it may hold anything: a float always, since statistics leave NaN out.
    wanted : bool

    Notes
    -----
    The greatest text of a column may be cut off after some bytes, so texts are asked for `=` alone.

    Examples
    --------
    >>> may_hold(("and", (">", "a", 1), ("not", ("=", "b", 2.0))), {"a": (-3, 1)})
    False
    """
    op = one[0]
    if op == "not":
        return may_hold(one[1], spans, not wanted)
    if op in ("and", "or"):
        parts = (may_hold(part, spans, wanted) for part in one[1:])
        return all(parts) if (op == "and") == wanted else any(parts)
    op = op if wanted else _NOT.get(op, op)
    if op == "null" or one[1] not in spans or (op != "=" and isinstance(one[2], str)):
        return True
    (low, high), value = spans[one[1]], one[2].encode() if isinstance(one[2], str) else one[2]
    return bool(
        {
            "=": low <= value <= high,
            "<>": not low == value == high,
            "<": low < value,
            "<=": low <= value,
            ">": high > value,
            ">=": high >= value,
        }[op]
    )


def _scalar(value: object) -> pa.Scalar:
    if isinstance(value, str):
        return texts([value])[0]
    if isinstance(value, dt.date):
        days = (value - dt.date(1970, 1, 1)).days
        return numbers(np.array([days], np.int32)).view(pa.date32())[0]
    return numbers(np.array([value]))[0]
