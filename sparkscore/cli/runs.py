"""`sparkscore runs`: what the ledger knows of runs, and going on with one or discarding it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparkscore.cli.options import (
    AsJson,
    Ledger,
    Master,
    RunId,
    Sets,
    named_plan,
    places_of,
    sets_of,
    store_of,
)
from sparkscore.cli.printing import as_table, emit, say
from sparkscore.cli.score import FailOnQuarantine, Order, Result, TakeOver, carry_out
from sparkscore.cli.sessions import answering_session

app = typer.Typer(help="List, show, resume or discard runs.", no_args_is_help=True)

AnyPipeline = Annotated[Path | None, typer.Argument(metavar="[PIPELINE]", help="The pipeline file of the ledger.")]

_LIST = ("run_id", "state", "exit_code", "attempt", "planned_rows", "ok_rows", "quarantined_rows", "started_at")
_ATTEMPTS = ("attempt", "state", "exit_code", "units_committed", "started_at", "ended_at", "error_code")
_UNITS = ("unit_seq", "state", "attempt", "planned_rows", "ok_rows", "quarantined_rows", "committed_version", "wall_ms")


@app.command("list")
def list_runs(
    pipeline: AnyPipeline = None, *, ledger: Ledger = None, sets: Sets = None, as_json: AsJson = False
) -> None:
    """List the runs of a ledger, oldest first, each by its newest attempt."""
    from sparkscore.ledger.fold import run_ids, run_rows

    store = store_of(pipeline, ledger, sets)
    rows = [(run_rows(store, run_id) or [{"run_id": run_id, "state": "PLANNED"}])[-1] for run_id in run_ids(store)]
    rows.sort(key=lambda row: str(row.get("started_at") or ""))
    emit(rows, as_table(rows, _LIST) if rows else f"no runs in {store.root}", as_json)


@app.command("show")
def show_run(
    run_id: RunId,
    pipeline: AnyPipeline = None,
    *,
    ledger: Ledger = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: its verdict, attempts and units."""
    from sparkscore.ledger.fold import run_rows, unit_rows
    from sparkscore.run.summaries import summary_of

    store = store_of(pipeline, ledger, sets)
    plan = named_plan(store, run_id)
    attempts, units = run_rows(store, run_id), unit_rows(store, run_id)
    summary = summary_of(store, plan).to_json() if attempts else {"run_id": run_id, "state": "PLANNED"}
    head = str(summary_of(store, plan)) if attempts else f"run {run_id}: PLANNED, no attempt yet"
    text = "\n\n".join([head, as_table(attempts, _ATTEMPTS), as_table(units, _UNITS)])
    emit({**summary, "attempts": attempts, "unit_rows": units}, text, as_json)


@app.command("resume")
def resume_run(
    run_id: RunId,
    pipeline: AnyPipeline = None,
    *,
    ledger: Ledger = None,
    sets: Sets = None,
    result: Result = None,
    as_json: AsJson = False,
    master: Master = None,
    take_over: TakeOver = False,
    fail_on_quarantine: FailOnQuarantine = False,
) -> None:
    """Go on with a run that the ledger knows, by the pipeline file given, or with --ledger as the run recorded it."""
    plan = named_plan(store_of(pipeline, ledger, sets), run_id)
    order = Order(pipeline, run_id, sets_of(sets), result, as_json, master, take_over, fail_on_quarantine, plan)
    raise typer.Exit(carry_out(order))


@app.command("discard")
def discard_run(
    run_id: RunId,
    pipeline: AnyPipeline = None,
    *,
    ledger: Ledger = None,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
    take_over: TakeOver = False,
) -> None:
    """Delete a run's rows from its sink in one commit, and close the run for good."""
    from sparkscore.run.discarding import discard_run as discard

    store = store_of(pipeline, ledger, sets)
    plan = named_plan(store, run_id)
    with answering_session(master, places_of(store, plan)) as spark:
        discard(spark, store, plan, take_over=take_over, say=say)
    answer: dict[str, Any] = {"run_id": run_id, "state": "DISCARDED", "sink": plan.header["sink"]}
    emit(answer, f"run {run_id}: DISCARDED; its rows are gone from {plan.header['sink']}", as_json)
