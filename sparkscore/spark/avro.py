"""What Avro asks for: the columns of a file, by its header, in workers; the columns that a sink may have, and their types.

Spark reads a column that a file lacks as silent nulls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore.errors import error

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

__all__ = ["assert_avro", "avro_columns", "avro_header", "avro_struct"]

_MAGIC = b"Obj\x01"
_HEADER_BYTES = 4 << 20  # far beyond the schema of thousands of columns


def avro_header(source: Any) -> tuple[None, pa.Schema]:
    """Give the columns of an Avro file without their types, which Spark compares itself; their number is not known.

    Raises
    ------
    pyarrow.ArrowInvalid
        When the file does not begin as an Avro file.
    """
    columns = avro_columns(source)
    if columns is None:
        raise pa.ArrowInvalid("it does not begin as a whole Avro file")
    return None, pa.schema([(name, pa.null()) for name in columns])


def avro_columns(source: Any) -> list[str] | None:
    """Name the top-level columns of the schema that an Avro file was written with; None when it is not a whole header.

    Parameters
    ----------
    source : binary file
        At its begin.

    Notes
    -----
    The header is a magic, and a map from text to bytes: blocks of a count (below zero: a size follows) and of that
    many pairs, up to a count of zero (Avro specification 1.12, "Object Container Files").
    """
    data = source.read(_HEADER_BYTES)
    if data[:4] != _MAGIC:
        return None
    try:
        schema: dict[str, Any] = {}
        at = 4
        while True:
            count, at = _long(data, at)
            if count == 0:
                break
            if count < 0:
                count, (_, at) = -count, _long(data, at)
            for _ in range(count):
                key, at = _bytes(data, at)
                value, at = _bytes(data, at)
                schema = json.loads(value) if key == b"avro.schema" else schema
        return [str(field["name"]) for field in schema["fields"]]
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def assert_avro(schema: pa.Schema) -> None:
    """Refuse columns that Avro cannot hold, before anything is scored: by their names, or as maps without texts as keys.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`, naming the column.
    """
    for column in schema:
        for got in _refused(column):
            raise error(
                "SPS-SPEC-SINK",
                "Expected columns and fields named by letters, digits and '_', and maps whose keys are texts, for a "
                f"sink of format avro. Got {column.name}: {got}.",
                "Rename it in `prepare`, leave it out of `keep`, or use format parquet.",
                where=f"outputs.{column.name}",
            )


def _refused(field: pa.Field) -> Iterator[str]:
    """Tell what of a column Avro does not hold, as Spark judges it (`AvroFileFormat`, `SchemaConverters`)."""
    kind = field.type
    if not re.fullmatch(r"[^\W\d]\w*", field.name):
        yield f"the name {field.name!r}"
    if pa.types.is_map(kind):
        if not pa.types.is_string(kind.key_type):
            yield f"a map from {kind.key_type}"
        yield from _refused(kind.item_field)
    elif pa.types.is_list(kind):
        yield from _refused(kind.value_field)
    elif pa.types.is_struct(kind):
        for child in kind:
            yield from _refused(child)


def avro_struct(schema: StructType) -> StructType:
    """Give the schema under which Spark reads back what it wrote: it stores small integers as Avro's int."""
    from pyspark.sql.types import StructType

    return StructType.fromJson(_stored(schema.jsonValue()))


def _stored(kind: Any) -> Any:
    """Widen a type in Spark's JSON."""
    if isinstance(kind, list):
        return [_stored(field) for field in kind]
    if isinstance(kind, dict):
        types = ("type", "fields", "elementType", "keyType", "valueType")
        return {key: _stored(value) if key in types else value for key, value in kind.items()}
    return "integer" if kind in ("byte", "short") else kind


def _long(data: bytes, at: int) -> tuple[int, int]:
    """Read a zigzag number of seven bits a byte, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _long(data, at)
    if size < 0 or at + size > len(data):
        raise IndexError(at)
    return data[at : at + size], at + size
