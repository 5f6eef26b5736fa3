"""A batch run: planned once, claimed by one driver, scored in attempts; a restart resumes, or says that it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.claims import HEARTBEAT_S, claim_run
from sparkscore.ledger.events import read_events
from sparkscore.ledger.fold import state_of
from sparkscore.ledger.plans import Plan, read_plan, write_plan
from sparkscore.ledger.store import Store, open_store
from sparkscore.run import folding
from sparkscore.run.attempt import Attempt, Progress, exit_code_of
from sparkscore.run.copying import copied
from sparkscore.run.golden import golden_rows
from sparkscore.run.planning import Bound, assert_same, bound, make_plan, restore
from sparkscore.run.records import rejections_recorded
from sparkscore.run.result import Run
from sparkscore.run.summaries import summary_of
from sparkscore.spark.failures import mapped

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Progress", "run_batch"]


def run_batch(
    spark: SparkSession,
    pipeline: Any,
    run_id: str,
    *,
    take_over: bool = False,
    fail_on_quarantine: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    heartbeat_s: float = HEARTBEAT_S,
) -> Run:
    """Score a pipeline's input once, or go on where an earlier attempt of the same run id stopped.

    Parameters
    ----------
    spark : SparkSession
        The caller's; it is neither stopped nor reconfigured.
    pipeline : sparkscore.spec.pipeline.Pipeline
    run_id : str
        The same run id again is a resume, or, after success, a no-op that says so.
    take_over : bool
        Do not wait for the heartbeat of an attempt that did not close.
    fail_on_quarantine : bool
        The exit code of a run that succeeded is 3 when it has bad rows.
    progress, say : callable, optional
        Receive progress and lines for a person.

    Returns
    -------
    Run
        Of a run that succeeded.

    Raises
    ------
    SparkscoreError
        Whatever ended the run, after the ledger recorded it; committed units stay and the run can be resumed.
    """
    store = open_store(pipeline.ledger)
    with mapped(spark, dict(pipeline.expressions()), run=run_id):
        with rejections_recorded(store, run_id, pipeline):
            plan, job = _planned(spark, pipeline, store, run_id, say)
        events = read_events(store, run_id)
        state = state_of(events)
        if state == "SUCCEEDED":
            return _repeated(spark, store, plan, events, fail_on_quarantine)
        if state == "DISCARDED":
            raise _discarded(run_id)
        with rejections_recorded(store, run_id, pipeline):
            job = job or restore(spark, pipeline, plan)
    with claim_run(store, run_id, take_over=take_over, interval_s=heartbeat_s, say=say) as claim:
        attempt = Attempt(spark, job, plan, store, claim)
        attempt.fail_on_quarantine = fail_on_quarantine
        return attempt.run(progress or (lambda *_: None))


def _planned(
    spark: SparkSession, pipeline: Any, store: Store, run_id: str, say: Callable[[str], None]
) -> tuple[Plan, Bound | None]:
    """Give the run's plan, made now if there is none; and what it was made from, if it was made here."""
    plan, job = read_plan(store, run_id), None
    if plan is None:
        job = bound(spark, pipeline)
        golden = golden_rows(spark, job)
        job = copied(spark, store, job, run_id, say)
        made = make_plan(spark, job, run_id)
        plan = write_plan(store, replace(made, header={**made.header, "golden": golden and asdict(golden)}))
    if plan is None:  # another driver's came first: perhaps of another version of the input or the model
        plan, job = read_plan(store, run_id), None
    assert plan is not None, "a plan that was written can be read"
    assert_same(pipeline, plan)
    return plan, job


def _repeated(
    spark: SparkSession, store: Store, plan: Plan, events: list[dict[str, Any]], fail_on_quarantine: bool
) -> Run:
    """Give the run as it ended; neither its input nor its model needs to be there any more."""
    if not any(event["event"] == "tables_folded" for event in events):  # its driver died just before its end
        folding.tables_folded(spark, store, plan.run_id)
    summary = summary_of(store, plan)
    exit_code = exit_code_of(summary.quarantined_rows, fail_on_quarantine)
    return Run(spark, replace(summary, repeated=True, exit_code=exit_code))


def _discarded(run_id: str) -> SparkscoreError:
    return error(
        "SPS-RUN-CHANGED",
        f"Expected a run that may be resumed. Got {run_id}, whose rows were discarded.",
        "Start a new run id.",
        run=run_id,
    )
