"""Which line a run's sink is on, by the sink that its plan pinned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.delta_line import DeltaLine
from sparkscore.run.line import Line
from sparkscore.spec.results import Sink

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["line_of"]


def line_of(spark: SparkSession, plan: Plan, store: Store) -> Line:
    """Give the line of a planned run; it takes the sink as the plan has it."""
    keys = plan.header.get("sink_keys") or {"format": "delta", "location": plan.header["sink"]}
    del store
    return DeltaLine(spark, Sink.model_validate(keys), plan)
