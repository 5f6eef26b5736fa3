"""`sparkscore quarantine`: why rows were refused, and which."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparkscore.cli.options import AsJson, Ledger, Master, RunId, Sets, named_plan, places_of, store_of
from sparkscore.cli.printing import as_table, emit
from sparkscore.cli.runs import AnyPipeline
from sparkscore.cli.sessions import answering_session

app = typer.Typer(help="Summarise or show the bad rows of a run.", no_args_is_help=True)

_SHOWN = ("keys", "source_pointer", "stage", "error_code", "error_message")


@app.command("summary")
def summarise(
    run_id: RunId,
    pipeline: AnyPipeline = None,
    *,
    ledger: Ledger = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Count the bad rows of a run by code, and name the units that have the most. Starts no Spark."""
    from sparkscore.errors import CODES
    from sparkscore.ledger.events import read_events
    from sparkscore.ledger.fold import quarantine_of, run_rows, unit_rows

    store = store_of(pipeline, ledger, sets)
    plan = named_plan(store, run_id)
    newest: dict[str, Any] = (run_rows(store, run_id) or [{"quarantined_by_code": {}, "quarantined_rows": 0}])[-1]
    by_code = sorted(newest["quarantined_by_code"].items(), key=lambda item: -item[1])
    codes = [{"code": code, "rows": rows, "meaning": CODES[code].title} for code, rows in by_code]
    bad_units = [u for u in unit_rows(store, run_id) if u["quarantined_rows"]]
    worst = sorted(bad_units, key=lambda u: -u["quarantined_rows"])[:5]
    units = [{k: u[k] for k in ("unit_seq", "quarantined_rows", "planned_rows")} for u in worst]
    value = {
        "run_id": run_id,
        "quarantined_rows": newest["quarantined_rows"],
        "by_code": codes,
        "worst_units": units,
        "quarantine": quarantine_of(read_events(store, run_id), plan),
    }
    head = f"run {run_id}: {newest['quarantined_rows']:,} bad rows in {len(bad_units)} of {len(plan.units)} units"
    tables = [as_table(codes, ("code", "rows", "meaning")), as_table(units, ("unit_seq", "quarantined_rows"))]
    emit(value, "\n\n".join([head, *(tables if codes else [])]), as_json)


@app.command("show")
def show_rows(
    run_id: RunId,
    pipeline: AnyPipeline = None,
    *,
    rows: Annotated[int, typer.Option("--rows", min=1, max=10_000, help="How many rows.")] = 20,
    ledger: Ledger = None,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Show bad rows of a run: their keys or address, and why. Of a run that is not closed, those committed so far."""
    from sparkscore.run.quarantine import bad_rows

    store = store_of(pipeline, ledger, sets)
    plan = named_plan(store, run_id)
    _, _, quarantine = places = places_of(store, plan)
    with answering_session(master, places) as spark:
        bad = bad_rows(spark, plan, store, quarantine)
        found = [row.asDict(recursive=True) for row in bad.limit(rows).collect()]
    emit(found, as_table(found, _SHOWN) if found else f"run {run_id}: no bad rows", as_json)
