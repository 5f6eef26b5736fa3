"""Which column types may feed which tensor types (`pipeline.md` §5), and what to write in `prepare` for the others."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pyarrow as pa

__all__ = ["TENSOR_TYPES", "Cast", "cast", "prepare_fix", "type_text"]

Cast = Literal["same", "narrowing", "refused"]

TENSOR_TYPES = (
    *("bool", "str", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

_SQL = {
    "bool": "BOOLEAN",
    "str": "STRING",
    "float16": "FLOAT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INT",
    "int64": "BIGINT",
    "uint8": "SMALLINT",
    "uint16": "INT",
    "uint32": "BIGINT",
    "uint64": "BIGINT",
}


def cast(column: pa.DataType, dtype: str) -> Cast:
    """Decide a cast at plan time.

    Parameters
    ----------
    column : DataType
        Of the column's values; of a list, its elements.
    dtype : str
        The tensor's numpy dtype, 'str' for strings.

    Returns
    -------
    "same", "narrowing" or "refused"
        Fed as it is or checked value by value; fed with a named loss of precision; not fed.

    Examples
    --------
    >>> cast(pa.int32(), "uint8"), cast(pa.float64(), "float32"), cast(pa.float32(), "int64")
    ('same', 'narrowing', 'refused')
    """
    source, target = _kind(column), "string" if dtype == "str" else np.dtype(dtype).kind.replace("u", "i")
    if source == "f" and target == "f":
        return "narrowing" if column == pa.float64() and dtype != "float64" else "same"
    if source == target:
        return "same"
    allowed = {("i", "f"), ("decimal", "f"), ("b", "f"), ("b", "i")}
    return "narrowing" if (source, target) in allowed else "refused"


def type_text(data_type: pa.DataType) -> str:
    """Write an Arrow type as Spark SQL writes it.

    Examples
    --------
    >>> type_text(pa.list_(pa.float64())), type_text(pa.decimal128(10, 2)), type_text(pa.int64())
    ('array<double>', 'decimal(10,2)', 'bigint')
    """
    types = pa.types
    if types.is_dictionary(data_type):
        return type_text(data_type.value_type)
    if types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type):
        return f"array<{type_text(data_type.value_type)}>"
    if types.is_decimal(data_type):
        return f"decimal({data_type.precision},{data_type.scale})"
    if types.is_timestamp(data_type):
        return "timestamp" if data_type.tz else "timestamp_ntz"
    if types.is_struct(data_type):
        return f"struct<{','.join(f'{f.name}:{type_text(f.type)}' for f in data_type)}>"
    names = {"bool": "boolean", "int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"}
    text = str(data_type).removeprefix("large_").removesuffix("_view")
    return names.get(text, "binary" if text.startswith("fixed_size_binary") else text)


def prepare_fix(name: str, column: pa.DataType, dtype: str) -> str:
    """Say which step of `prepare` makes a column fit a tensor.

    Examples
    --------
    >>> prepare_fix("born", pa.date32(), "float32")
    'Add to prepare: {with: {born: "CAST(unix_date(born) AS FLOAT)"}}.'
    """
    quoted = name if re.fullmatch(r"\w+", name) else f"`{name}`"
    wanted = _SQL[dtype]
    to_number = dtype not in ("str", "bool")
    if pa.types.is_list(column) or pa.types.is_large_list(column) or pa.types.is_fixed_size_list(column):
        expression = f"CAST({quoted} AS ARRAY<{wanted}>)"
    elif pa.types.is_date(column) and to_number:
        expression = f"CAST(unix_date({quoted}) AS {wanted})"
    elif pa.types.is_timestamp(column) and to_number:
        expression = f"CAST(unix_seconds(CAST({quoted} AS TIMESTAMP)) AS {wanted})"
    else:
        expression = f"CAST({quoted} AS {wanted})"
    return f'Add to prepare: {{with: {{{quoted}: "{expression}"}}}}.'


def _kind(data_type: pa.DataType) -> str:
    types = pa.types
    if types.is_dictionary(data_type):
        return _kind(data_type.value_type)
    tests = {
        "b": types.is_boolean,
        "i": types.is_integer,
        "f": types.is_floating,
        "decimal": types.is_decimal,
    }
    if str(data_type) in ("string", "large_string", "string_view"):
        return "string"
    return next((kind for kind, test in tests.items() if test(data_type)), "other")
