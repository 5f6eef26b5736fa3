"""What an estimate in the ledger says of a run that begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sparkscore.ledger.events import EventLog
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.calibration import forecast, key_of, read_calibration
from sparkscore.run.planning import Bound
from sparkscore.run.scan import task_sizes
from sparkscore.spark.machine import machine_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["record_prediction"]


def record_prediction(
    spark: SparkSession, events: EventLog, store: Store, job: Bound, plan: Plan, *, scan: str, cores: Callable[[], int]
) -> None:
    """Write down what the run should take, where the ledger has an estimate of its kind.

    Parameters
    ----------
    spark : SparkSession
    events : EventLog
    store : Store
    job : Bound
    plan : Plan
    scan : str
        How the source is read.
    cores : callable
        Gives the session's cores.
    """
    if not any(name.endswith(".json") for name in store.names("estimates")):
        return  # so that a run without an estimate asks no executor for its name
    found = read_calibration(store, key_of(job, scan, machine_name(spark)))
    if found is not None:
        told = forecast(plan.units, found, task_sizes(spark, cores()), job)
        of = {"hours": told.hours, "hours_p95": told.hours_p95, "ns_row": told.ns_row}
        events.write("run_predicted", calibrated_at=found.at, **{name: round(x, 6) for name, x in of.items()})
