"""A source without files becomes one with files: its rows are copied once into the ledger, before the run is planned.

The plan points to the copy, so a resume, the balance and every address rest on it, and the source is not asked again.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.events import read_events
from sparkscore.ledger.store import Store
from sparkscore.run.frames import needed_columns, top_level
from sparkscore.run.planning import Bound, assert_sink
from sparkscore.run.stage import folder_name, run_of
from sparkscore.runtime import files
from sparkscore.spark.prepare import apply_where
from sparkscore.spark.rows import copy_rows
from sparkscore.spark.schemas import selected
from sparkscore.spark.sessions import interruptible
from sparkscore.spark.sources import pin_copy

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["KEPT", "STAMP", "copied", "made_at", "remove_inputs", "sweep_inputs"]

KEPT = timedelta(days=30)  # as long as the quarantine's rows, whose addresses lead into the copy

_log = logging.getLogger(__name__)
STAMP = "%Y%m%dT%H%M%S"


def copied(spark: SparkSession, store: Store, job: Bound, run_id: str, say: Callable[[str], None]) -> Bound:
    """Copy the rows of a source without files to ``<ledger>/inputs/<run_id>``, and bind the job to the copy.

    Each try has a folder of its own, so what a driver that died left behind is never taken for a part of it. Of the
    columns those are copied that the pipeline names. A source with files is left where it is.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`, before anything is copied.
    RecordError
        `SPS-DATA-SOURCE` when a row of the source cannot be read.
    """
    rows = job.snapshot.rows
    if rows is None:
        return job
    assert_sink(spark, job)
    sweep_inputs(store)
    started = datetime.now(UTC)
    folder = f"{store.root}/inputs/{folder_name(run_id)}/{started:{STAMP}}-{uuid.uuid4().hex[:8]}"
    say(f"copying {rows.name} to {folder}: {rows.reason}")
    where = job.pipeline.source.where
    with rows.mapped({"source.where": where} if where else {}), interruptible(spark):
        frame = _needed(apply_where(rows.frame(spark), where), job)
        copy_rows(frame, folder)
    snapshot, paths = pin_copy(spark, job.snapshot, folder, frame.schema, started.isoformat(timespec="seconds"))
    return replace(job, snapshot=snapshot, paths=tuple(sorted(paths)))


def sweep_inputs(store: Store, now: datetime | None = None) -> list[str]:
    """Remove the copies that are older than `KEPT` and whose runs did nothing for as long; give what was removed.

    It is no part of what a run promises: what cannot be removed is logged and left.
    """
    before = (now or datetime.now(UTC)) - KEPT
    removed: list[str] = []
    for of_run in map(folder_name, store.names("inputs")):
        for name in store.names(f"inputs/{of_run}"):
            folder = f"inputs/{of_run}/{name}"
            if made_at(name) < before and not _is_in_use(store, run_of(of_run), folder, before):
                removed += _removed(store, folder)
    return removed


def remove_inputs(store: Store, run_id: str) -> list[str]:
    """Remove the copies of a run that is taken back."""
    folder = f"inputs/{folder_name(run_id)}"
    return [gone for name in store.names(folder) for gone in _removed(store, f"{folder}/{name}")]


def _needed(frame: DataFrame, job: Bound) -> DataFrame:
    """Select the columns that the pipeline names, so that a wide table is not copied for a few of its columns."""
    wanted = {name.lower() for name in needed_columns(job.snapshot, job.pipeline, job.scoring)}
    for step in job.pipeline.prepare:
        for reference in (*(step.select or ()), *(step.drop or ())):
            wanted |= top_level(reference)
    chosen = [name for name in frame.columns if name.lower() in wanted or name == "_ss"] or frame.columns[:1]
    return frame.selectExpr(*(selected((name,)) for name in chosen))


def made_at(name: str) -> datetime:
    """Read the time of a folder's name, ``<STAMP>-<hex>``; of another's it is the end of time, so that it stays."""
    try:
        return datetime.strptime(name.partition("-")[0], STAMP).replace(tzinfo=UTC)
    except ValueError:  # no folder of ours
        return datetime.max.replace(tzinfo=UTC)


def _is_in_use(store: Store, run_id: str, folder: str, before: datetime) -> bool:
    """Whether the run's plan points to the copy, and an event of the run is younger than `before`."""
    plan = json.loads(store.get(f"plans/{run_id}.json") or b'{"input": {"locations": []}}')
    if not any(str(place).endswith(folder) for place in plan["input"]["locations"]):
        return False
    times = [datetime.fromisoformat(event["at"]) for event in read_events(store, run_id)]
    return any(at >= before for at in times)


def _removed(store: Store, folder: str) -> Sequence[str]:
    place = f"{store.root}/{folder}"
    try:
        files.delete_folder(place)
    except SparkscoreError as refusal:
        _log.warning("the copy %s could not be removed: %s", place, refusal)
        return ()
    return (place,)
