"""The open bad rows of a run, scored again as a run of their own: by address, once, with their new state told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sparkscore._version import __version__
from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.events import read_events
from sparkscore.ledger.fold import quarantine_of, state_of
from sparkscore.ledger.plans import FileList, InputFile, Plan, Unit, read_plan, write_plan
from sparkscore.ledger.store import Store, open_store
from sparkscore.run import folding
from sparkscore.run.batch import Progress, run_batch
from sparkscore.run.budget import NO_BUDGET
from sparkscore.run.frames import needed_columns
from sparkscore.run.golden import golden_rows
from sparkscore.run.keys import assert_key
from sparkscore.run.lines import line_of
from sparkscore.run.models import model_to_json, pin_model
from sparkscore.run.planning import assert_sink, quarantine_location, restore
from sparkscore.run.result import Run
from sparkscore.run.summaries import summary_of
from sparkscore.run.units import pack
from sparkscore.runtime import files
from sparkscore.spark.addressed import OpenRows
from sparkscore.spark.delta_log import newest_version
from sparkscore.spark.failures import mapped
from sparkscore.spark.prepare import where_steps
from sparkscore.spark.sources import Snapshot, read_files, restore_snapshot
from sparkscore.spark.survey import survey
from sparkscore.spec.fingerprint import fingerprint

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

__all__ = ["replay_id", "requeue_run"]

_MAX_UNITS = 8  # bad rows are few; and where Delta's own reader reads, each unit scans the table's file list


def replay_id(store: Store, run_id: str) -> str:
    """Name the replay of a run that is to be made or resumed: the first that neither succeeded nor was discarded."""
    number = 1
    while state_of(read_events(store, f"{run_id}.requeue-{number}")) in ("SUCCEEDED", "DISCARDED"):
        number += 1
    return f"{run_id}.requeue-{number}"


def requeue_run(
    spark: SparkSession,
    pipeline: Any,
    run_id: str,
    *,
    take_over: bool = False,
    fail_on_quarantine: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """Score the open bad rows of a run again, with the pipeline as it is now, into the same sink.

    The other parameters are those of `run_batch`. The replay is a run with an id of its own (`replay_id`), so it
    resumes and commits once like any other. At its end each of its rows in the quarantine is ``replayed_ok``,
    ``replayed_bad``, or ``discarded`` where a `prepare` step dropped it now.

    Parameters
    ----------
    spark : SparkSession
    pipeline : sparkscore.spec.pipeline.Pipeline
        Over the sink of that run; its model and `prepare` are what was mended. Its source is not asked.
    run_id : str
        The run whose bad rows they are.

    Returns
    -------
    Run
        The replay; where no row is open, the last one that ended, or the run itself, and nothing was scored. Rows whose
        source is gone stay open, and are named in its warnings.

    Raises
    ------
    SparkscoreError
        Those of `run_batch`; `SPS-RUN-UNKNOWN` for a run that the ledger does not hold; `SPS-SPEC-VALUE` for one that
        is not over; `SPS-DATA-GONE` when the source of every open row is gone.
    """
    store = open_store(pipeline.ledger)
    # Each of the rows was bad before: that it is bad again is an answer, and breaks no budget.
    relaxed = pipeline.model_copy(update={"on_error": pipeline.on_error.model_copy(update=NO_BUDGET)})
    new_id = replay_id(store, run_id)
    with mapped(spark, dict(pipeline.expressions()), run=run_id):
        of, last = _ended_run(store, run_id), _settled_last(spark, store, new_id)
        if read_plan(store, new_id) is None:
            plan = _planned(spark, relaxed, store, of, new_id)
            if plan is None:
                return Run(spark, replace(summary_of(store, last or of), repeated=True))
            write_plan(store, plan)
    options: dict[str, Any] = {"take_over": take_over, "fail_on_quarantine": fail_on_quarantine}
    try:
        run = run_batch(spark, relaxed, new_id, **options, progress=progress, say=say)
    except SparkscoreError as failure:
        if failure.code == "SPS-RUN-CHANGED":
            failure.fix = f"Discard the replay (`sparkscore runs discard {new_id}`), then requeue again."
        raise
    with mapped(spark, run=new_id):
        _settle(spark, store, new_id)
    return run


def _settled_last(spark: SparkSession, store: Store, new_id: str) -> Plan | None:
    """Give the plan of the replay before this one, its rows settled: its driver may have died just before that."""
    head, _, number = new_id.rpartition("-")
    last = f"{head}-{int(number) - 1}"
    plan = read_plan(store, last)
    if plan is None or state_of(read_events(store, last)) != "SUCCEEDED":
        return None
    _settle(spark, store, last)
    return plan


def _settle(spark: SparkSession, store: Store, replay: str) -> None:
    """Set the state of the rows that a finished replay scored, from its committed rows; may be repeated."""
    from pyspark.sql import functions as F

    plan = read_plan(store, replay)
    assert plan is not None, "a replay that ran has a plan"
    only = OpenRows(**plan.header["input"]["only"])
    now = replace(only, version=newest_version(spark, only.quarantine) or 0).read(spark)
    planned = {name for unit in plan.units for f in unit.files for name in (f.path, _name(f.path))}
    again = [file for file in _by_file(now) if not planned.isdisjoint((file, _name(file)))]
    committed = line_of(spark, plan, store).rows()
    assert committed is not None, "a replay that ran has committed rows"
    scored = committed.select(F.col("_ss.source_pointer").alias("source_pointer"), F.col("_ss.status").alias("status"))
    status = F.col("status")
    state = F.when(status == "ok", "replayed_ok").when(status == "error", "replayed_bad")
    rows = now.where(_file_of_pointer().isin(again)).join(scored, "source_pointer", "left")
    # What is not there was dropped by a named step of `prepare`: the balance of the replay says so.
    told = rows.select(
        "q_id", F.coalesce(state, F.lit("discarded")).alias("state"), F.lit(replay).alias("resolved_run_id")
    )
    folding.merge(spark, only.quarantine, ("q_id",), told, update=("state", "resolved_run_id"), insert=False)


def _ended_run(store: Store, run_id: str) -> Plan:
    plan = read_plan(store, run_id)
    if plan is None:
        fix = "See `sparkscore runs list`."
        raise error("SPS-RUN-UNKNOWN", f"Expected a run of the ledger {store.root}. Got {run_id}.", fix, run=run_id)
    state = state_of(read_events(store, run_id))
    if state not in ("SUCCEEDED", "FAILED", "DISCARDED"):
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected a run that is over. Got {run_id}, which is {state}.",
            f"Bring it to its end first: `sparkscore runs resume {run_id} PIPELINE`.",
            run=run_id,
        )
    return plan


def _planned(spark: SparkSession, pipeline: Any, store: Store, of: Plan, new_id: str) -> Plan | None:
    """Plan the replay of the rows that are open now and whose source is there; None when none is open."""
    if pipeline.sink.place != of.header["sink"]:
        raise error(
            "SPS-RUN-CHANGED",
            f"Expected the sink of run {of.run_id}, {of.header['sink']}. Got {pipeline.sink.place}.",
            "Give a pipeline file with that sink; model, prepare and the policies may differ.",
            run=of.run_id,
        )
    mode = (of.header.get("sink_keys") or {}).get("mode", "append")
    if mode != "append":
        raise error(
            "SPS-SPEC-SINK",
            f"Expected a sink to which rows are appended. Got {of.header['sink']}, which run {of.run_id} wrote with "
            f"mode {mode}: the replayed rows alone would be left in it.",
            "Mend the pipeline and score the whole input again under a new run id.",
            run=of.run_id,
        )
    quarantine = quarantine_of(read_events(store, of.run_id), of)
    version = newest_version(spark, quarantine)
    only = OpenRows(of.run_id, quarantine, version or 0, _numbered_after(of))
    wanted = {} if version is None else _by_file(only.read(spark))
    if not wanted:
        return None
    assert_key(pipeline)
    snapshot = replace(restore_snapshot(of.header["input"]), only=only)
    units, left = _there(spark, snapshot, of.units, wanted)
    if not units:
        raise error(
            "SPS-DATA-GONE",
            f"Expected the source of {sum(wanted.values())} open rows of run {of.run_id}. Got {'; '.join(left[:5])}.",
            "Restore the files as they were (class R3: a retention, VACUUM or a lifecycle rule removed them), or let "
            "the rows expire.",
            run=of.run_id,
        )
    header = {
        **{name: value for name, value in of.header.items() if name != "files"},
        "run_id": new_id,
        "kind": "replay",
        "code_version": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "spec_sha256": fingerprint(pipeline),
        "model": model_to_json(pin_model(pipeline).ref),
        "input": snapshot.to_json(),
        "where_steps": {str(i): name for i, name in where_steps(pipeline.prepare).items()},
        "quarantine": quarantine_location(pipeline),
        "balance_basis": "count",
        "planned_rows": sum(unit.rows or 0 for unit in units),
        "units": len(units),
    }
    job = restore(spark, pipeline, Plan(header, units))
    warnings = [*job.binding.warnings, *(f"R3: {text}; these rows stay open" for text in left)]
    header |= {"keys": list(job.scoring.keys), "narrowing": list(job.binding.narrowing), "warnings": warnings}
    assert_sink(spark, job)
    if snapshot.route == "files":  # Delta's own reader answers for the columns of its version
        survey(spark, snapshot, _paths(units), needed_columns(snapshot, pipeline, job.scoring))
    golden = golden_rows(spark, job)
    return Plan({**header, "precision": job.scoring.session.precision, "golden": golden and asdict(golden)}, units)


def _numbered_after(of: Plan) -> str | None:
    """Give the `source.where` that left the rows of a run before those without an index were numbered."""
    snapshot = restore_snapshot(of.header["input"])
    if snapshot.only is not None:  # a replay gives rows the addresses that they had
        return snapshot.only.where
    return None if snapshot.copy else of.header["spec"]["source"].get("where")


def _there(
    spark: SparkSession, snapshot: Snapshot, units: Sequence[Unit], wanted: Mapping[str, int]
) -> tuple[tuple[Unit, ...], list[str]]:
    """Give the units of a replay, and say of each file with open rows that is not in them why.

    Where rows have an index, the files that hold one are all that is read. Elsewhere the address depends on how Spark
    splits a unit's files, so units stay as they were, and one whose rows are not found at their addresses is left out.
    """
    by_name = {_name(path): n for path, n in wanted.items()}
    rows = {f.path: by_name.get(_name(f.path), 0) or wanted.get(f.path, 0) for unit in units for f in unit.files}
    looks: list[InputFile] = []
    kept: list[Unit] = []
    left: list[str] = []
    for unit in units:
        if not any(rows[f.path] for f in unit.files):
            continue
        needed = [f for f in unit.files if rows[f.path] or not snapshot.has_row_index]
        gone = {f.path: why for f in needed if (why := _gone(snapshot, f)) is not None}
        left += [f"{rows[path]} rows of {why}" for path, why in gone.items() if rows[path]]
        there = tuple(replace(f, rows=rows[f.path]) for f in needed if f.path not in gone)
        wanted_rows = sum(f.rows or 0 for f in there)
        if snapshot.has_row_index:
            looks += there
        elif wanted_rows:
            found = read_files(spark, snapshot, [f.path for f in there]).count()
            if found == wanted_rows:
                kept.append(Unit.of(len(kept), there))
            else:
                left.append(
                    f"{wanted_rows} rows of the unit of {there[0].path}, of which {found} are at their addresses: "
                    "Spark splits the files otherwise than it did (cores, spark.sql.files.maxPartitionBytes)"
                )
    return tuple(kept) or pack(FileList.of(looks).table, _MAX_UNITS), left


def _gone(snapshot: Snapshot, file: InputFile) -> str | None:
    if snapshot.route == "files":
        return files.changed_since([file])
    return f"{file.path} is gone" if files.stat([file.path])[0] is None else None


def _by_file(rows: DataFrame) -> dict[str, int]:
    """Count bad rows by the file of their address, as Spark writes its name."""
    return {row.file: row["count"] for row in rows.groupBy(_file_of_pointer().alias("file")).count().collect()}


def _file_of_pointer() -> Column:
    from pyspark.sql import functions as F

    return F.regexp_replace("source_pointer", "#[^#]*$", "")


def _name(path: str) -> str:
    """Write a file's name in one way: the address encodes what a plan does not, and `file:/x` is `file:///x`."""
    name = unquote(path)
    return "file:/" + name[5:].lstrip("/") if name.startswith("file:") else name


def _paths(units: Sequence[Unit]) -> list[str]:
    return [f.path for unit in units for f in unit.files]
