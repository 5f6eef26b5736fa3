"""The header of an Avro file, as Avro's specification writes it, tells its columns; anything else tells none."""

from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from sparkscore.spark.avro import avro_columns


def _long(value: int) -> bytes:
    number, written = (value << 1) ^ (value >> 63), bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def _text(value: bytes) -> bytes:
    return _long(len(value)) + value


def _header(names: list[str], sized: bool) -> bytes:
    schema = json.dumps({"type": "record", "name": "r", "fields": [{"name": n, "type": "int"} for n in names]})
    pairs = _text(b"avro.codec") + _text(b"null") + _text(b"avro.schema") + _text(schema.encode())
    count = _long(-2) + _long(len(pairs)) if sized else _long(2)
    return b"Obj\x01" + count + pairs + _long(0) + b"s" * 16


@given(st.lists(st.text(max_size=200), max_size=60), st.booleans())
def test_the_columns_are_read_in_order(names: list[str], sized: bool) -> None:
    assert avro_columns(io.BytesIO(_header(names, sized) + b"blocks")) == names


@given(st.integers(0, 400))
def test_a_header_that_breaks_off_tells_none(kept: int) -> None:
    whole = _header(["a", "b" * 300], sized=False)
    assert avro_columns(io.BytesIO(whole[: min(kept, len(whole) - 17)])) is None


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_no_header(data: bytes) -> None:
    assert avro_columns(io.BytesIO(data)) is None
    assert avro_columns(io.BytesIO(b"Obj\x01" + data)) is None
