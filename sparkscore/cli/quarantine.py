"""`sparkscore quarantine`: why rows were refused and which; exporting, requeueing and forgetting them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sparkscore.cli.options import (
    AsJson,
    Ledger,
    Master,
    PipelineFile,
    RunId,
    Sets,
    named_plan,
    places_of,
    sets_of,
    store_of,
)
from sparkscore.cli.printing import as_table, emit
from sparkscore.cli.runs import AnyPipeline
from sparkscore.cli.score import FailOnQuarantine, Order, Result, TakeOver, carry_out
from sparkscore.cli.sessions import answering_session

app = typer.Typer(help="Show, export, requeue or erase the bad rows of runs.", no_args_is_help=True)

Payload = Annotated[bool, typer.Option("--payload", help="With the rows' content, as it is stored.")]
Decrypt = Annotated[bool, typer.Option("--decrypt", help="With the rows' content in clear; the key must be here.")]
Format = Annotated[Literal["parquet", "csv", "json"], typer.Option("--format", help="parquet, csv or json.")]

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
    payload: Payload = False,
    decrypt: Decrypt = False,
    ledger: Ledger = None,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Show bad rows of a run: their keys or address, and why. Of a run that is not closed, those committed so far."""
    from sparkscore.run.quarantine import shown_rows

    store = store_of(pipeline, ledger, sets)
    plan = named_plan(store, run_id)
    _, _, quarantine = places = places_of(store, plan)
    with answering_session(master, places) as spark:
        bad = shown_rows(spark, store, plan, quarantine, _shown(payload, decrypt))
        found = [row.asDict(recursive=True) for row in bad.limit(rows).collect()]
    columns = (*_SHOWN, *(("payload",) if payload or decrypt else ()))
    emit(found, as_table(found, columns) if found else f"run {run_id}: no bad rows", as_json)


@app.command("export")
def export(
    run_id: RunId,
    pipeline: AnyPipeline = None,
    *,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="A new folder, on a disk or a store of Spark's.")],
    kind: Format = "parquet",
    payload: Payload = False,
    decrypt: Decrypt = False,
    ledger: Ledger = None,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Write the bad rows of a run as files."""
    from sparkscore.run.quarantine import export_rows, shown_rows
    from sparkscore.spec.fields import located

    store = store_of(pipeline, ledger, sets)
    plan = named_plan(store, run_id)
    place = located(to, Path.cwd())
    _, _, quarantine = places = places_of(store, plan)
    with answering_session(master, (*places, place)) as spark:
        rows = export_rows(shown_rows(spark, store, plan, quarantine, _shown(payload, decrypt)), kind, place)
    emit({"run_id": run_id, "rows": rows, "to": place}, f"run {run_id}: {rows:,} bad rows in {place}", as_json)


@app.command("requeue")
def requeue(
    run_id: RunId,
    pipeline: PipelineFile,
    *,
    sets: Sets = None,
    result: Result = None,
    as_json: AsJson = False,
    master: Master = None,
    take_over: TakeOver = False,
    fail_on_quarantine: FailOnQuarantine = False,
) -> None:
    """Score the open bad rows of a run again with the pipeline as it is now, as a run of their own, once."""
    named_plan(store_of(pipeline, None, sets), run_id)
    order = Order(pipeline, run_id, sets_of(sets), result, as_json, master, take_over, fail_on_quarantine, requeue=True)
    raise typer.Exit(carry_out(order))


@app.command("erase")
def erase(
    pipeline: AnyPipeline = None,
    *,
    key: Annotated[
        list[str], typer.Option("--key", metavar="NAME=VALUE", help="A key of the rows. Repeatable: all must agree.")
    ],
    ledger: Ledger = None,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Empty the quarantined rows of a person or thing, in every quarantine of the ledger."""
    from sparkscore.run.erasing import erase_rows, quarantines

    store = store_of(pipeline, ledger, sets)
    with answering_session(master, (store.root, *quarantines(store))) as spark:
        erased, sinks = erase_rows(spark, store, sets_of(key))
    lines = [
        f"{sum(erased.values()):,} quarantined rows emptied",
        *(f"  {rows:,} in {place}" for place, rows in erased.items()),
        "The old files go with VACUUM of these tables. Malformed lines have no keys and go at their date.",
        "The sinks are your own tables, with the same payload in their error rows; there:",
        *(f"  {statement}" for statement in sinks),
    ]
    emit({"erased": erased, "sinks": sinks}, "\n".join(lines), as_json)


@app.command("expire")
def expire(
    pipeline: AnyPipeline = None,
    *,
    ledger: Ledger = None,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Empty the quarantined rows whose date is past, in every quarantine of the ledger; to be called daily."""
    from sparkscore.run.erasing import expire_rows, quarantines

    store = store_of(pipeline, ledger, sets)
    with answering_session(master, (store.root, *quarantines(store))) as spark:
        expired = expire_rows(spark, store)
    lines = [
        f"{sum(expired.values()):,} expired rows emptied",
        *(f"  {n:,} in {place}" for place, n in expired.items()),
    ]
    emit({"expired": expired}, "\n".join(lines), as_json)


def _shown(payload: bool, decrypt: bool) -> Literal["none", "stored", "clear"]:
    return "clear" if decrypt else "stored" if payload else "none"
