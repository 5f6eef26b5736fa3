"""Which line a run's sink is on, and what of a sink can be judged before anything is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store, open_store
from sparkscore.run.delta_line import DeltaLine
from sparkscore.run.line import Line
from sparkscore.run.publishing import foreign_options
from sparkscore.run.staged_line import StagedLine
from sparkscore.runtime import files
from sparkscore.spark.commit import assert_same_columns, check_sink, table_of
from sparkscore.spark.flat import assert_flat
from sparkscore.spark.schemas import arrow_schema
from sparkscore.spark.unit_files import assert_avro
from sparkscore.spark.views import check_views
from sparkscore.spec.sink import FILE_FORMATS, Sink

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["check_line", "line_of"]

_NO_FORMAT = ("DATA_SOURCE_NOT_FOUND", "ClassNotFoundException", "Failed to find data source", "No suitable driver")


def line_of(spark: SparkSession, plan: Plan, store: Store) -> Line:
    """Give the line of a planned run; it takes the sink as the plan has it."""
    sink = Sink.model_validate(plan.header.get("sink_keys") or {"format": "delta", "location": plan.header["sink"]})
    return StagedLine(spark, sink, plan, store) if sink.is_staged else DeltaLine(spark, sink, plan)


def check_line(spark: SparkSession, sink: Sink, schema: pa.Schema) -> list[str]:
    """Refuse a sink that cannot take the run's rows; give what its kind does not promise, as warnings.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`, `SPS-SPEC-COLLISION`.
    ClusterError
        `SPS-ENV-SINK`, `SPS-ENV-PACKAGE`.
    """
    if sink.is_flat:
        assert_flat(schema, sink.format)
    if sink.format == "avro":
        assert_avro(schema)
        _opens(lambda: spark.read.format("avro").schema("id INT").load([]), "avro")
    if sink.is_delta:
        _refuse_files_of_runs(sink)
        check_sink(spark, table_of(sink), schema, sink.partition_by)
        check_views(spark, table_of(sink))
        return []
    if sink.is_foreign:
        return [_look_at_foreign(spark, sink)]
    _check_files(sink, schema)
    return []


def _refuse_files_of_runs(sink: Sink) -> None:
    """Refuse a sink of files as the place of a Delta table: its readers would see the table's files too."""
    names = files.names_in(sink.location) if sink.location else []
    shown = [name for name in names if name.startswith("run_id=")]
    if shown and "_delta_log" not in names and "run_id" not in sink.partition_by:
        raise error(
            "SPS-SPEC-SINK",
            f"Expected a Delta table or a new place at {sink.location}. Got a sink of files, with {shown[0]}.",
            "Give sink.location a place of its own, or the format that is there.",
        )


def _check_files(sink: Sink, schema: pa.Schema) -> None:
    taken = [name for name in schema.names if name.lower() == "run_id"]
    if taken:
        raise error(
            "SPS-SPEC-COLLISION",
            f"Expected no column run_id in a sink of files, whose folders are run_id=…. Got {taken[0]}.",
            "Rename the column in `prepare`.",
            where="keep",
        )
    location = str(sink.location)
    for name in files.names_in(location):
        if name == "_delta_log" or not name.startswith(("_", ".", "run_id=")):
            raise error(
                "SPS-SPEC-SINK",
                f"Expected a new place, or a sink of files of sparkscore, at {location}. Got a folder with {name}.",
                "Give sink.location a place of its own.",
            )
    _assert_as_published(sink, schema)


def _assert_as_published(sink: Sink, schema: pa.Schema) -> None:
    """Compare the run's columns and format with those of a run that is there: readers take them together."""
    from pyspark.sql.types import StructType

    store = open_store(str(sink.location))
    for name in reversed(store.names("_manifests")):
        found = json.loads(store.get(f"_manifests/{name}/run.json") or b"{}")
        if found.get("state") != "published" or not found["schema"]:
            continue
        layout = found["layout"]
        if (layout["format"], list(layout["partition_by"])) != (sink.format, list(sink.partition_by)):
            raise error(
                "SPS-SPEC-SINK",
                f"Expected the sink {sink.location} to go on as {layout['format']}, partitioned by "
                f"{', '.join(layout['partition_by']) or 'nothing'}. Got {sink.format}, partitioned by "
                f"{', '.join(sink.partition_by) or 'nothing'}.",
                "Give sink.location a new place, or the format and partitions that are there.",
            )
        there = arrow_schema(StructType.fromJson(json.loads(found["schema"])))
        assert_same_columns({f.name.lower(): f.type for f in there}, schema, str(sink.location))
        return


def _look_at_foreign(spark: SparkSession, sink: Sink) -> str:
    reader = spark.read.format(sink.format).options(**foreign_options(sink))
    opens = _opens(lambda: reader.load(sink.location) if sink.location else reader.load(), sink.format)
    return (
        f"sink format {sink.format}: units are handed over at least once; one whose driver dies in that moment stands "
        f"there twice{'' if opens else '; it is not there yet, or did not answer'}"
    )


def _opens(load: Callable[[], DataFrame], format: str) -> bool:
    """Find out whether Spark knows a format; a table that is not there yet is no hindrance, and False.

    Raises
    ------
    ClusterError
        `SPS-ENV-PACKAGE` when it does not.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        load().schema  # noqa: B018  # asks the source
    except (PySparkException, Py4JError) as cause:
        if any(word in str(cause) for word in _NO_FORMAT):
            near = get_close_matches(format, {"delta", *FILE_FORMATS, "jdbc"} - {format}, n=1)
            raise error(
                "SPS-ENV-PACKAGE",
                f"Expected a sink format that this Spark session can write. Got {format!r}, which it does not "
                f"find, or whose driver it lacks.",
                f"Did you mean {near[0]!r}?" if near else "Start the session with its jars (spark.jars).",
                where="sink.format",
            ) from cause
        return False
    return True
