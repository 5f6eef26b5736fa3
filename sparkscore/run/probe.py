"""The probe of an estimate: a run of a few pieces of the input into a folder that is removed, and what it took.

It is a run like any other, by the same tasks, commits and proof, so that what is measured is what a run does.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkscore.errors import error
from sparkscore.ledger.claims import claim_run
from sparkscore.ledger.events import read_events
from sparkscore.ledger.input_files import FileList
from sparkscore.ledger.plans import Plan, Unit, write_plan
from sparkscore.ledger.store import Store, open_store
from sparkscore.run.attempt import Attempt
from sparkscore.run.budget import NO_BUDGET
from sparkscore.run.calibration import Calibration, Piece
from sparkscore.run.copying import STAMP, made_at
from sparkscore.run.planning import Bound, quarantine_location
from sparkscore.run.scan import TaskSizes
from sparkscore.run.units import weight_rows
from sparkscore.runtime import files
from sparkscore.spec.limits import Limits
from sparkscore.spec.results import Quarantine

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["probe"]

PIECES = 3
PIECE_S = 10.0  # of its tasks; with starts, commits and the end of a run three of them stay within a minute
WARM_UP_S = 5.0
_RUN_ID = "estimate"


def probe(spark: SparkSession, job: Bound, plan: Plan, sizes: TaskSizes, machine: str) -> Calibration:
    """Score a warm-up and up to three pieces, spread over the plan, for at most ten seconds each; keep nothing of it.

    Parameters
    ----------
    spark : SparkSession
    job : Bound
        The probe writes into a folder of its ledger, so that commits take what they take there.
    plan : Plan
        Of the run that is estimated.
    sizes : TaskSizes
    machine : str
        The name of an executor's processor.

    Raises
    ------
    SparkscoreError
        What would end a run at its first units.
    """
    pieces = list(_spread(plan.units, sizes))
    warm_up = Unit(0, "warm-up", FileList(plan.units[0].files.table.slice(0, 1)))
    units = (warm_up, *pieces)
    seconds = {0: WARM_UP_S} | {unit.seq: _seconds(sizes, unit) for unit in pieces}
    with _scratch(open_store(job.pipeline.ledger)) as folder:
        scratch = _relocated(job, folder)
        header = _header(plan, scratch.pipeline, len(units))
        own = open_store(scratch.pipeline.ledger)
        short = write_plan(own, Plan(header, units))
        assert short is not None, "the folder is new"
        with claim_run(own, _RUN_ID, say=lambda line: None) as claim:
            attempt = Attempt(spark, scratch, short, own, claim)
            attempt.seconds = seconds
            summary = attempt.run(lambda *_: None).summary()
        events = read_events(own, _RUN_ID)
    provider = next(iter(summary.providers), "")
    return _calibrated(events, units, seconds, Calibration("", machine, provider, sizes.cores, (), 0.0, 0.0))


def _spread(units: tuple[Unit, ...], sizes: TaskSizes) -> Iterator[Unit]:
    """Take units from all over the plan, without the pilot where there are others; of each, what fills the cores."""
    pool = units[1:] or units
    n = min(PIECES, len(pool))
    for i in range(n):
        table = pool[(2 * i + 1) * len(pool) // (2 * n)].files.table
        filled = np.cumsum(table["size_bytes"].to_numpy() + sizes.opening_bytes)
        enough = int(np.searchsorted(filled, sizes.cores * sizes.part_bytes(FileList(table)))) + 1
        yield Unit.of(i + 1, FileList(table.slice(0, enough)))


def _seconds(sizes: TaskSizes, unit: Unit) -> float:
    """Share a piece's time among its tasks: those of a very large file are more than there are cores."""
    return PIECE_S * sizes.cores / max(sizes.cores, sizes.tasks_of(unit))


@contextmanager
def _scratch(store: Store) -> Iterator[str]:
    """Give a folder in the ledger, and remove it; with it go those that probes which died left a day ago."""
    for name in store.names("estimates"):
        if made_at(name) < datetime.now(UTC) - timedelta(days=1):
            files.delete_folder(f"{store.root}/estimates/{name}")
    folder = f"{store.root}/estimates/{datetime.now(UTC):{STAMP}}-{uuid.uuid4().hex[:8]}"
    try:
        yield folder
    finally:
        files.delete_folder(folder)


def _relocated(job: Bound, folder: str) -> Bound:
    """Point everything that a run writes into a folder, and let no bad row end it."""
    pipeline = job.pipeline
    sink: dict[str, Any] = {"location": f"{folder}/scores", "table": None, "mode": "append", "replace_where": None}
    if pipeline.sink.is_foreign:
        sink |= {"format": "parquet", "options": {}, "credentials": {}}
    elsewhere = {
        "sink": pipeline.sink.model_copy(update=sink),
        "ledger": f"{folder}/ledger",
        "quarantine": Quarantine(payload="none"),
        "on_error": pipeline.on_error.model_copy(update={**NO_BUDGET, "allow_empty": True}),
        "limits": Limits(),
    }
    plan = replace(job.scoring, payload="none")
    return replace(job, pipeline=pipeline.model_copy(update=elsewhere), binding=replace(job.binding, plan=plan))


def _header(plan: Plan, pipeline: Any, units: int) -> dict[str, Any]:
    own = {
        "run_id": _RUN_ID,
        "sink": pipeline.sink.place,
        "sink_keys": pipeline.sink.model_dump(mode="json", exclude_defaults=True),
        "quarantine": quarantine_location(pipeline),
        "balance_basis": "receipt",  # a task whose time is up leaves rows unread
        "planned_rows": None,
        "units": units,
    }
    return {**plan.header, **own, "warnings": [], "narrowing": [], "sink_weaker": []}


def _calibrated(
    events: list[dict[str, Any]], units: tuple[Unit, ...], seconds: dict[int, float], about: Calibration
) -> Calibration:
    told = {e["unit_seq"]: e for e in events if e["event"] == "unit_committed"}
    if any(not event["tasks"] for event in told.values()):
        raise error(
            "SPS-ENV-LEDGER",
            "Expected the receipts of the probe's tasks, from which their time is read. Got none of some.",
            "Let the workers write below the ledger, or start a run without an estimate.",
        )
    at = {e["event"]: datetime.fromisoformat(e["at"]) for e in events}
    warm_up, *pieces = (_piece(units[seq], told[seq], seconds[seq]) for seq in sorted(told))
    found = replace(about, at=at["run_closed"].isoformat(timespec="seconds"), pieces=tuple(pieces))
    warm_s = found.overhead_s + found.ns_row(0.5)[0] * warm_up.rows / 1e9 / max(1, warm_up.busy_tasks)
    cold_s = max(0.0, warm_up.wall_s - warm_s)
    whole_s = (at["run_closed"] - at["run_claimed"]).total_seconds()
    scored_s = sum(found.overhead_s + piece.longest_task_s for piece in pieces) + warm_s
    return replace(found, fixed_s=max(0.0, whole_s - scored_s), cold_start_s=cold_s)


def _piece(unit: Unit, event: dict[str, Any], seconds: float) -> Piece:
    return Piece(
        weight=float(np.sum(weight_rows(unit.files.table))),
        rows=event["in_rows"],
        ok_rows=event["ok_rows"],
        bad_rows=event["quarantined_rows"],
        is_whole=event["longest_task_s"] < seconds,
        tasks=event["tasks"],
        busy_tasks=event["busy_tasks"],
        task_s=event["task_s"],
        longest_task_s=event["longest_task_s"],
        model_s=event["model_ms"] / 1000,
        wall_s=event["wall_ms"] / 1000,
        output_bytes=sum(size for _, size in event["output_files"]),
    )
