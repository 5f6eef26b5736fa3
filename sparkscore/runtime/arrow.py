"""Arrow arrays and numpy arrays as views of each other, by their buffers.

pyarrow's own converters (`pa.array`, `pa.scalar`, `Array.to_numpy`, `np.asarray`; measured with 26.0.1) import pandas
wherever it is installed. That costs each worker 0.45 CPU-seconds and tens of MB for nothing; buffers do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["mask_of", "numbers", "rows", "structs", "texts", "viewed", "without_views"]

Mask = NDArray[np.bool_]


def numbers(values: NDArray[Any], nulls: Mask | None = None) -> pa.Array:
    """Wrap numbers or bools, shape (n,); without a copy when they lie side by side and are no bools.

    Examples
    --------
    >>> numbers(np.array([1.5, 2.5]), np.array([False, True])).to_pylist()
    [1.5, None]
    """
    kind = pa.from_numpy_dtype(values.dtype)
    data = _bits(values) if values.dtype == np.bool_ else pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind, len(values), [None if nulls is None else _bits(~nulls), data])


def texts(values: Sequence[str | None] | NDArray[Any]) -> pa.StringArray:
    """Make a string array; None is null.

    Examples
    --------
    >>> texts(["a", None, "é"]).to_pylist()
    ['a', None, 'é']
    """
    return _binary([None if v is None else v.encode("utf-8") for v in values], pa.string())


def structs(rows: Sequence[dict[str, Any]], kind: pa.StructType) -> pa.StructArray:
    """Make a struct array of strings, bytes and integers from one mapping a row; None is null."""
    columns = []
    for field in kind:
        cells = [row[field.name] for row in rows]
        if pa.types.is_string(field.type):
            columns.append(texts(cells))
        elif pa.types.is_binary(field.type):
            columns.append(_binary(cells, field.type))
        else:
            nulls = np.array([cell is None for cell in cells], np.bool_)
            filled = np.array([0 if cell is None else cell for cell in cells], field.type.to_pandas_dtype())
            columns.append(numbers(filled, nulls))
    return pa.StructArray.from_arrays(columns, fields=list(kind))


def rows(table: pa.RecordBatch | pa.Table, undecodable: str = "surrogateescape") -> list[dict[str, Any]]:
    r"""Give rows as Python values. Bytes of a text that are not UTF-8 are read as `bytes.decode` does by that name.

    Parquet strings and malformed JSON lines hold such bytes: Spark passes them on as they are.

    Examples
    --------
    >>> rows(pa.record_batch([pa.array([b"caf\xe9"]).view(pa.string())], ["a"]))
    [{'a': 'caf\udce9'}]
    """
    try:
        found: list[dict[str, Any]] = table.to_pylist()
    except UnicodeDecodeError:
        columns = ([_value(cell, undecodable) for cell in column] for column in table.columns)
        found = [dict(zip(table.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
    return found


def _value(cell: pa.Scalar, undecodable: str) -> Any:
    if not cell.is_valid:
        return None
    if pa.types.is_map(cell.type):
        return [tuple(_value(part, undecodable) for _, part in pair.items()) for pair in cell.values]
    if pa.types.is_dictionary(cell.type):
        return _value(cell.value, undecodable)
    if pa.types.is_struct(cell.type):
        return {name: _value(part, undecodable) for name, part in cell.items()}
    if isinstance(cell, pa.ListScalar):
        return [_value(part, undecodable) for part in cell.values]
    if str(cell.type) in ("string", "large_string", "string_view"):
        return cell.as_buffer().to_pybytes().decode("utf-8", undecodable)
    return cell.as_py()


def without_views(column: pa.Array) -> pa.Array:
    """Give string and binary views as plain strings and binaries: few of Arrow's functions take views."""
    kind = str(column.type)
    if kind == "string_view":
        return column.cast(pa.string())
    return column.cast(pa.binary()) if kind == "binary_view" else column


def viewed(values: pa.Array) -> NDArray[Any]:
    """View numbers as they are stored, shape (n,), read-only; what stands in null positions is undefined."""
    dtype = np.dtype(values.type.to_pandas_dtype())
    data = values.buffers()[1]
    if data is None or not len(values):
        return np.zeros(len(values), dtype)
    return np.frombuffer(data, dtype, len(values), values.offset * dtype.itemsize)


def mask_of(values: pa.BooleanArray) -> Mask:
    """Give bools as ndarray, shape (n,); null counts as False."""
    valid, data = values.buffers()
    mask = _unpacked(data, values)
    return mask if valid is None or not values.null_count else mask & _unpacked(valid, values)


def _unpacked(data: pa.Buffer | None, values: pa.Array) -> Mask:
    if data is None or not len(values):
        return np.zeros(len(values), np.bool_)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little", count=values.offset + len(values))
    return bits[values.offset :].view(np.bool_)


def _bits(values: Mask) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _binary(cells: Sequence[bytes | None], kind: pa.DataType) -> Any:
    sizes = np.array([0 if cell is None else len(cell) for cell in cells], np.int64)
    offsets = np.zeros(len(cells) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    valid = _bits(np.array([cell is not None for cell in cells], np.bool_))
    data = pa.py_buffer(b"".join(cell for cell in cells if cell is not None))
    return pa.Array.from_buffers(kind, len(cells), [valid, pa.py_buffer(offsets), data])
