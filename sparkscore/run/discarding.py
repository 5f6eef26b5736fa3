"""Takes a run back: its rows leave the sink in one step, and the ledger says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sparkscore.ledger.claims import claim_run
from sparkscore.ledger.events import EventLog, read_events
from sparkscore.ledger.fold import quarantine_of
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run import folding
from sparkscore.run.copying import remove_inputs
from sparkscore.run.environment import versions
from sparkscore.run.leasing import lease_of
from sparkscore.run.line import gap
from sparkscore.run.lines import line_of
from sparkscore.run.proof import recorded_proofs
from sparkscore.spark.delta_log import delta_path, newest_version
from sparkscore.spark.failures import mapped

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["discard_run"]


def discard_run(
    spark: SparkSession,
    store: Store,
    plan: Plan,
    *,
    take_over: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Delete a run's rows from its sink and mark the run DISCARDED; its bad rows in the quarantine are marked too.

    It claims the run as its next attempt, so a driver that is still scoring it is not undone behind its back.

    Raises
    ------
    ClusterError
        `SPS-FENCED` when a live driver owns the run.
    SpecError
        `SPS-SPEC-SINK` when the sink gives no rows back.
    """
    sink, run_id, before = plan.header["sink"], plan.run_id, read_events(store, plan.run_id)
    quarantine, line = quarantine_of(before, plan), line_of(spark, plan, store)
    line.assert_discardable()
    with claim_run(store, run_id, take_over=take_over, say=say) as claim, mapped(spark, run=run_id):
        events = EventLog(store, run_id, claim.attempt)
        events.write("run_claimed", **versions(spark))
        there = line.discard()
        if not there and recorded_proofs(before):
            raise gap("the run's committed units", f"no table at {sink}", run_id)
        if newest_version(spark, quarantine) is not None:
            _tell(spark, quarantine, "state = 'discarded'", f"run_id = '{run_id}'")
        if plan.header.get("kind") == "replay":  # the rows that it had scored again are bad once more
            table = plan.header["input"]["only"]["quarantine"]
            _tell(spark, table, "state = 'open', resolved_run_id = NULL", f"resolved_run_id = '{run_id}'")
        events.write("run_discarded", exit_code=0)
        remove_inputs(store, run_id)
        folding.fold_run(spark, store, run_id)


def _tell(spark: SparkSession, quarantine: str, changes: str, where: str) -> None:
    """Set the state of rows; one that was erased or has expired has no address any more, and stays what it is."""
    with lease_of(spark, quarantine)():
        spark.sql(f"UPDATE {delta_path(quarantine)} SET {changes} WHERE {where} AND state <> 'expired'")
