"""A pipeline's prepared frame over any files of its pinned source, and the columns of it that a plan needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore.spark.prepare import apply_steps, apply_where
from sparkscore.spark.schemas import arrow_schema, fields, project
from sparkscore.spark.sources import Snapshot, read_files
from sparkscore.spec.scoring import HELPER_COLS, ScoringPlan

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["needed_columns", "plan_names", "prepared", "prepared_schema", "scoring_frame", "top_level"]


def prepared(spark: SparkSession, snapshot: Snapshot, pipeline: Any, paths: Sequence[str] | None = None) -> DataFrame:
    """Read files of the source with their addresses, and apply `source.where` and `prepare`.

    A column `_ss`, which a table that was scored before has, is left out; the run records that as an event. What was
    copied is what `source.where` left.
    """
    # A row that is replayed was in the input, whatever defines the input by now.
    where = None if snapshot.copy or snapshot.only else pipeline.source.where
    frame = apply_where(read_files(spark, snapshot, paths), where)
    if "_ss" in frame.columns:
        frame = frame.drop("_ss")
    return apply_steps(frame, pipeline.prepare)


def prepared_schema(frame: DataFrame) -> pa.Schema:
    """The Arrow schema of a prepared frame without its helper columns: what a pipeline's references resolve against."""
    schema = arrow_schema(frame.schema)
    return pa.schema([f for f in schema if f.name not in HELPER_COLS])


def scoring_frame(frame: DataFrame, plan: ScoringPlan) -> DataFrame:
    """Select what the scorer needs of a prepared frame, and nothing else."""
    return project(frame, plan_names(plan), HELPER_COLS)


def plan_names(plan: ScoringPlan) -> list[str]:
    """Name the columns that a scorer takes: fed, kept and keys."""
    return [*plan.columns, *plan.keep, *plan.keys]


def needed_columns(snapshot: Snapshot, pipeline: Any, plan: ScoringPlan) -> list[str]:
    """Name the source's own top-level columns that the run reads, so that a file without one is found at plan time.

    Columns inside SQL are found by their names as words: one too many only makes the gate stricter.
    """
    available = fields(snapshot.struct)
    used: set[str] = set()
    for reference in (*plan.columns, *plan.keep, *plan.keys):
        name = reference.split(".", 1)[0].strip("`")
        used.update(f.name for f in available if f.name.lower() in (name.lower(), reference.lower()))
    sql = " ".join(expression for _, expression in pipeline.expressions())
    words = {w.lower() for w in re.findall(r"\w+", sql)}
    for old in (old for step in pipeline.prepare if step.kind == "rename" for old in step.rename):
        words |= top_level(old)
    return [f.name for f in available if f.name in used or f.name.lower() in words]


def top_level(reference: str) -> set[str]:
    """Give the names, in lower case, that a reference may begin with: its column's, or that of the struct it is in."""
    return {reference.strip("`").lower(), reference.split(".", 1)[0].strip("`").lower()}
