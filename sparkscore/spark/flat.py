"""`_ss` as plain columns (`_ss_status`, `_ss_stage`, …), for sinks whose columns are single values; and back again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.spark.schemas import quoted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructField, StructType

__all__ = ["assert_flat", "flat_struct", "flattened", "nested"]

_PREFIX = "_ss_"
_TEXT = ("payload",)  # JSON in bytes, which a text format cannot hold as they are


def assert_flat(schema: pa.Schema, format: str) -> None:
    """Refuse columns that a format of single values cannot hold, before anything is scored.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`, naming the column.
    """
    for column in schema:
        if column.name == "_ss":
            continue
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            raise error(
                "SPS-SPEC-SINK",
                f"Expected columns of single values for a sink of format {format}. Got {column.name}: "
                f"{str(column.type)[:60]}.",
                'Select single values ("probabilities[:, 1]"), leave the column out of `keep`, or use format parquet.',
                where=f"outputs.{column.name}",
            )


def flattened(frame: DataFrame) -> DataFrame:
    """Spread `_ss` over plain columns."""
    names = [f.name for f in _ss(frame.schema)]
    spread = [f"{_as_text(name, f'_ss.{quoted(name)}')} AS {quoted(_PREFIX + name)}" for name in names]
    return frame.selectExpr(*spread, *(quoted(c) for c in frame.columns if c != "_ss"))


def flat_struct(schema: StructType) -> StructType:
    """Give the schema of a flattened frame."""
    from pyspark.sql.types import StringType, StructField, StructType

    spread = [StructField(_PREFIX + f.name, StringType() if f.name in _TEXT else f.dataType) for f in _ss(schema)]
    return StructType([*spread, *(f for f in schema.fields if f.name != "_ss")])


def nested(frame: DataFrame, schema: StructType) -> DataFrame:
    """Put the plain columns back into `_ss`, with the types of `schema`; other columns keep their own names."""
    ss = [_cast(_PREFIX + f.name, f) for f in _ss(schema)]
    return frame.selectExpr(f"struct({', '.join(ss)}) AS _ss", *(_cast(f.name, f) for f in schema if f.name != "_ss"))


def _ss(schema: StructType) -> list[StructField]:
    return cast("StructType", schema["_ss"].dataType).fields


def _cast(name: str, field: StructField) -> str:
    return f"CAST({quoted(name)} AS {field.dataType.simpleString()}) AS {quoted(field.name)}"


def _as_text(name: str, value: str) -> str:
    return f"CAST({value} AS STRING)" if name in _TEXT else value
