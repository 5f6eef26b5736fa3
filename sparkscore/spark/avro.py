"""The columns of an Avro file, by its header, in workers: Spark reads one that a file lacks as silent nulls."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

__all__ = ["avro_columns", "avro_header"]

_MAGIC = b"Obj\x01"
_HEADER_BYTES = 4 << 20  # far beyond the schema of thousands of columns


def avro_header(source: Any) -> tuple[None, pa.Schema, dict[bytes, bytes]]:
    """Give the columns of an Avro file without their types, which Spark compares itself; their number is not known.

    Raises
    ------
    pyarrow.ArrowInvalid
        When the file does not begin as an Avro file.
    """
    columns = avro_columns(source)
    if columns is None:
        raise pa.ArrowInvalid("it does not begin as a whole Avro file")
    return None, pa.schema([(name, pa.null()) for name in columns]), {}


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
