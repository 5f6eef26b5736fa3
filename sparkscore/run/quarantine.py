"""The bad rows of a run: from the quarantine table once the run is closed, from its committed rows before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.lines import line_of
from sparkscore.spark.delta_log import newest_version
from sparkscore.tables import QUARANTINE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["bad_rows"]


def bad_rows(spark: SparkSession, plan: Plan, store: Store, quarantine: str) -> DataFrame:
    """Read the bad rows of a run: columns of `sparkscore.tables.QUARANTINE`, of a run still open those of `_ss` alone.

    Lazy; no payload of a row is hidden or shown that the table does not hold.
    """
    from pyspark.sql import functions as F

    delta = spark.read.format("delta")
    if newest_version(spark, quarantine) is not None:
        folded = delta.load(quarantine).where(F.col("run_id") == plan.run_id)
        if not folded.isEmpty():
            return folded.select(*(c.name for c in QUARANTINE))
    committed = line_of(spark, plan, store).rows()
    if committed is None:
        return spark.createDataFrame([], "source_pointer string")
    return committed.select("_ss.*").where(F.col("status") == "error")
