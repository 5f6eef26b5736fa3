"""What a sink of Avro cannot hold is refused, and what it holds otherwise than Spark is known."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.spark.unit_files import assert_avro, avro_struct


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
    from pyspark.sql import types as t

    def struct(small: t.DataType, tiny: t.DataType) -> t.StructType:
        inner = t.StructType([t.StructField("short", small), t.StructField("m", t.MapType(t.StringType(), tiny))])
        outer = [t.StructField("byte", tiny), t.StructField("b", t.ArrayType(inner)), t.StructField("c", t.LongType())]
        return t.StructType(outer)

    assert avro_struct(struct(t.ShortType(), t.ByteType())) == struct(t.IntegerType(), t.IntegerType())
