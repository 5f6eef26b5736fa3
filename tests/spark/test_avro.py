"""The header of an Avro file, as Avro's specification writes it, tells its columns; what Avro cannot hold is refused."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkscore.errors import SparkscoreError
from sparkscore.spark.avro import assert_avro, avro_columns, avro_struct


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


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("a-b", pa.int64(), "a-b: the name 'a-b'"),
        ("1x", pa.int64(), "1x: the name '1x'"),
        ("a", pa.list_(pa.struct([("b c", pa.int64())])), "a: the name 'b c'"),
        ("a", pa.map_(pa.string(), pa.map_(pa.int64(), pa.string())), "a: a map from int64"),
    ],
)
def test_a_column_that_avro_cannot_hold_is_named(name: str, kind: pa.DataType, told: str) -> None:
    with pytest.raises(SparkscoreError, match=rf"SPS-SPEC-SINK.* Got {told}"):
        assert_avro(pa.schema([("fine", pa.int64()), (name, kind)]))


def test_a_column_that_avro_holds_is_let_through() -> None:
    nested = pa.list_(pa.struct([("_x1", pa.map_(pa.string(), pa.list_(pa.int8())))]))
    assert_avro(pa.schema([("_ss", nested), ("é", pa.binary()), ("A1", pa.timestamp("us", "UTC"))]))


def test_small_integers_are_read_back_as_the_integers_that_avro_stores() -> None:
    from pyspark.sql.types import StructType

    written = StructType.fromDDL("byte tinyint, b array<struct<short: smallint, x: map<string, tinyint>>>, c string")
    stored = StructType.fromDDL("byte int, b array<struct<short: int, x: map<string, int>>>, c string")
    assert avro_struct(written) == stored
