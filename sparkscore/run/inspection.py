"""The first rows of a pipeline's input, scored on the driver: what `check` judges and `peek` shows. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore.errors import SparkscoreError, error
from sparkscore.run.frames import prepared, scoring_frame
from sparkscore.run.planning import Bound, bound
from sparkscore.scoring.counts import Counts
from sparkscore.scoring.scorer import Scorer, open_scorer, result_schema
from sparkscore.spark.failures import mapped
from sparkscore.spec.scoring import ScoringPlan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Sample", "driver_scorer", "empty_source", "first_rows", "peek_pipeline"]


@dataclass(frozen=True)
class Sample:
    """Rows as they reached the scorer and as they left it, with what it counted and where it ran."""

    given: pa.Table
    scored: pa.Table
    counts: Counts
    provider: str


def first_rows(spark: SparkSession, job: Bound, rows: int) -> Sample:
    """Score the first rows of a bound pipeline on the driver, proving on the way that rows do not mix.

    The limit comes first, so that Spark reads a little and the model sees no row more.

    Raises
    ------
    ModelError
        `SPS-MODEL-BATCH` or `SPS-MODEL-RUN`.
    RecordError
        `SPS-PREPARE`, `SPS-DATA-FILE` and their like, as a run would meet them.
    """
    expressions, source = dict(job.pipeline.expressions()), job.snapshot.rows
    with mapped(spark, expressions) if source is None else source.mapped(expressions):
        frame = scoring_frame(prepared(spark, job.snapshot, job.pipeline), job.scoring)
        given = frame.limit(rows).toArrow()
    plan = replace(job.scoring, prove_batch=True, payload="none")  # what is shown holds no payload
    scorer = driver_scorer(job, plan)
    scored = pa.Table.from_batches(scorer.score(given.to_batches()), schema=result_schema(plan, given.schema))
    return Sample(given, scored, scorer.counts, scorer.session.provider)


def peek_pipeline(spark: SparkSession, pipeline: Any, rows: int) -> pa.Table:
    """Score the first `rows` rows; give kept columns, outputs, and `err`, which is null for a good row.

    Raises
    ------
    ClusterError
        `SPS-ENV-EMPTY` when there is no row.
    """
    sample = first_rows(spark, bound(spark, pipeline), rows)
    if not sample.given.num_rows:
        raise empty_source("the source")
    return sample.scored


def empty_source(name: str) -> SparkscoreError:
    """Give the error of a source without a row."""
    fix = "Check the source and source.where; if an empty input is normal, set on_error.allow_empty: true."
    return error("SPS-ENV-EMPTY", f"Expected rows in {name}. Got none.", fix)


def driver_scorer(job: Bound, plan: ScoringPlan) -> Scorer:
    """Open a scorer on the driver over the model that is pinned there.

    The driver of a cluster seldom has the workers' GPU: `device` becomes auto, and the provider that ran is reported.
    """
    on_driver = replace(plan, session=replace(plan.session, device="cpu" if plan.session.device == "cpu" else "auto"))
    return open_scorer(on_driver)
