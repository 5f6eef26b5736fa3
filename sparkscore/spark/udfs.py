"""A `ColumnTask` as a Spark column function: an Arrow UDF where Spark has it, an iterator pandas UDF elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from sparkscore.spark.carriers import ColumnTask

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

__all__ = ["column_function"]


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
