"""The calls of Spark that carry a task: `mapInArrow` over a frame, and a column function.

A column function is an Arrow UDF where Spark has it, an iterator pandas UDF elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from sparkscore.spark.carriers import ColumnTask, FusedTask, RowsTask

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = ["column_function", "fused_frame", "map_in_arrow", "rows_frame"]

Batches = Iterator[pa.RecordBatch]


def map_in_arrow(frame: DataFrame, task: Callable[[Batches], Batches], result: StructType) -> DataFrame:
    """Call `frame.mapInArrow` for columns of any name.

    The columns cross under plain names: PySpark looks its own columns up by name there, and takes a dot in one for a
    field of a struct (pyspark 4.2 `map_ops.py`). Texts come back cast to what they are: a Spark Connect client declares
    them ``string collate UTF8_BINARY``, which Delta would keep, and its other readers refuse (pyspark 4.2
    `connect/types.py`, deltalake 1.6).
    """
    names = frame.columns
    return _plain(frame.toDF(*(f"c{i}" for i in range(len(names)))).mapInArrow(_Renamed(task, names), result), result)


def fused_frame(spark: SparkSession, task: FusedTask, result: StructType) -> DataFrame:
    """Give the scored rows of tasks that read their slices themselves; a task is a number, alone in its partition."""
    n = len(task.slices)
    return _plain(spark.range(0, n, 1, n).mapInArrow(task, result), result)


def rows_frame(spark: SparkSession, task: RowsTask, result: StructType) -> DataFrame:
    """Give what one task of one worker makes of the rows that it brings along."""
    return _plain(spark.range(0, 1, 1, 1).mapInArrow(task, result), result)


def _plain(scored: DataFrame, result: StructType) -> DataFrame:
    """Take the collations of a Connect client off."""
    from sparkscore.spark.schemas import ddl_type, quoted  # it needs pydantic, which workers that import this lack

    types = {f.name: ddl_type(f.dataType) for f in result}
    texts = {name: f"CAST({quoted(name)} AS {kind})" for name, kind in types.items() if "string" in kind}
    return scored.selectExpr(*(f"{texts.get(name, quoted(name))} AS {quoted(name)}" for name in types))


class _Renamed:
    """Gives a task its batches with their columns' own names."""

    def __init__(self, task: Callable[[Batches], Batches], names: list[str]) -> None:
        self.task = task
        self.names = names

    def __call__(self, batches: Batches) -> Batches:
        return self.task(batch.rename_columns(self.names) for batch in batches)


def column_function(task: ColumnTask, result: StructType, form: Literal["auto", "arrow", "pandas"]) -> Any:
    """Make the function. Spark reads its form from the annotations, so they are set here as real types."""
    from pyspark.sql.pandas import functions as columns

    single = len(task.schema) == 1
    if form == "arrow" or (form == "auto" and hasattr(columns, "arrow_udf")):
        function = _one_array(task) if single else _arrays(task)
        column: Any = pa.Array if single else tuple[pa.Array, ...]
        function.__annotations__ = {"columns": Iterator[column], "return": Iterator[pa.Array]}
        arrow_udf: Any = columns.arrow_udf  # its overloads name functions, and these are made here
        return arrow_udf(function, result).asNondeterministic()
    import pandas as pd

    function = _one_series(task) if single else _series(task)
    series: Any = pd.Series if single else tuple[pd.Series, ...]
    function.__annotations__ = {"columns": Iterator[series], "return": Iterator[pd.DataFrame]}
    pandas_udf: Any = columns.pandas_udf
    return pandas_udf(function, result).asNondeterministic()


def _arrays(task: ColumnTask) -> Any:
    def score_arrays(columns: Any) -> Any:
        yield from task.arrow(columns)

    return score_arrays


def _one_array(task: ColumnTask) -> Any:
    def score_array(columns: Any) -> Any:
        yield from task.arrow((array,) for array in columns)

    return score_array


def _series(task: ColumnTask) -> Any:
    def score_series(columns: Any) -> Any:
        yield from task.pandas(columns)

    return score_series


def _one_series(task: ColumnTask) -> Any:
    def score_one_series(columns: Any) -> Any:
        yield from task.pandas((series,) for series in columns)

    return score_one_series
