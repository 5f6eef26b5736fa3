"""The Delta tables that are derived: quarantine from the committed rows, runs and units from the events.

A run's first fold into a table is an append, which takes a quarter of a merge's time, under a transaction that Delta
takes once. Each later fold closes that transaction and merges on the table's key. So folds may be repeated after any
crash, and a driver that was taken for dead adds nothing when it wakes.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.events import read_events
from sparkscore.ledger.fold import run_rows, unit_rows
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.leasing import lease_of
from sparkscore.run.line import Line
from sparkscore.run.planning import quarantine_location
from sparkscore.runtime.sealing import MARK
from sparkscore.spark.commit import append_once, shut_out
from sparkscore.spark.delta_log import DeltaTable, newest_version
from sparkscore.spark.failures import mapped
from sparkscore.spark.schemas import quoted, table_frame
from sparkscore.tables import QUARANTINE, RUNS, UNITS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["LedgerTable", "fold_quarantine", "fold_run", "ledger_tables", "tables_folded"]

_TRIES = 5
# By what the row holds: its unit may have been scored by an attempt that the pipeline told otherwise.
_MODE = (
    "CASE WHEN _ss.payload IS NULL THEN if(_ss.payload_sha256 IS NULL, 'none', 'hash') "
    f"WHEN startswith(_ss.payload, X'{MARK.hex()}') THEN 'encrypted' ELSE 'plain' END"
)
_LEDGER_WAIT_S = 30.0  # two heartbeats: a holder that died is passed, and a fold of another run takes 2 s

_log = logging.getLogger(__name__)


def fold_quarantine(spark: SparkSession, pipeline: Any, plan: Plan, line: Line, is_first: bool = False) -> None:
    """Bring the run's bad rows, read from its committed rows, into the quarantine table."""
    from pyspark.sql import functions as F

    committed = line.rows()
    if committed is None:  # an empty input, which the pipeline allows: there may be no sink yet
        return
    bad = committed.where(F.col("_ss.status") == "error")
    rows = _quarantine_rows(bad, plan.header["keys"], pipeline.quarantine.keep_days).dropDuplicates(["q_id"])
    of_runs = _OfRuns((plan.run_id,), is_first)
    merge(spark, quarantine_location(pipeline), ("q_id",), rows, update=("last_seen_at",), of_runs=of_runs)


def fold_run(spark: SparkSession, store: Store, *run_ids: str, is_first: bool = False) -> dict[str, int]:
    """Bring the attempts and units of runs into the ledger's tables `runs` and `units`; give the rows of each.

    Nothing is given when other runs keep a table busy: the fold is left to a later one, since the events are the truth.
    """
    folded = {}
    of_runs = _OfRuns(tuple(run_id for run_id in run_ids if not _is_folded(store, run_id)), is_first)
    for table in ledger_tables(spark, store, run_ids):
        try:
            merge(spark, table.location, table.keys, table.frame, wait_s=_LEDGER_WAIT_S, of_runs=of_runs)
        except SparkscoreError as busy:
            if busy.code not in ("SPS-CLUSTER-LEASE", "SPS-CLUSTER-CONFLICT"):
                raise
            _log.warning(
                "run %s: left to a later fold of the table %s: %s", ", ".join(run_ids), table.name, busy.message
            )
            return {}
        folded[table.name] = table.rows
    return folded


def tables_folded(spark: SparkSession, store: Store, run_id: str, is_first: bool = False) -> bool:
    """Show the run in the ledger's tables; the events stay the truth when that fails."""
    try:
        return bool(fold_run(spark, store, run_id, is_first=is_first))
    except Exception:  # boundary: a run has ended as it has, whatever becomes of the tables
        _log.warning(
            "the tables of run %s could not be folded; the same run id again folds them", run_id, exc_info=True
        )
        return False


def _is_folded(store: Store, run_id: str) -> bool:
    """Whether the run's own first fold is over."""
    return any(event["event"] == "tables_folded" for event in read_events(store, run_id))


@dataclass(frozen=True)
class _OfRuns:
    """Runs whose rows a fold brings: by one of them for the first time, or in the place of their own first fold."""

    ids: tuple[str, ...]
    is_first: bool

    @property
    def transactions(self) -> list[tuple[str, int]]:
        return [(f"sparkscore-fold-{run_id}", 0) for run_id in self.ids]


@dataclass(frozen=True)
class LedgerTable:
    """One of the ledger's tables as the events of some runs have it."""

    name: str
    location: str
    keys: tuple[str, ...]
    frame: DataFrame
    rows: int


def ledger_tables(spark: SparkSession, store: Store, run_ids: Sequence[str]) -> list[LedgerTable]:
    """Make the rows of `runs` and `units` from the event objects alone."""
    found = []
    for name, columns, keys, of_run in (
        ("runs", RUNS, ("run_id", "attempt"), run_rows),
        ("units", UNITS, ("run_id", "unit_seq"), unit_rows),
    ):
        rows = [row for run_id in run_ids for row in of_run(store, run_id)]
        location = f"{store.root.rstrip('/')}/tables/{name}"
        frame = table_frame(spark, columns, rows).coalesce(1)
        found.append(LedgerTable(name, location, keys, frame, len(rows)))
    return found


def merge(
    spark: SparkSession,
    location: str,
    keys: tuple[str, ...],
    rows: DataFrame,
    *,
    update: tuple[str, ...] | None = None,
    insert: bool = True,
    wait_s: float | None = None,
    of_runs: _OfRuns = _OfRuns((), False),
) -> int:
    """Insert rows whose key is new, if so asked, and update the others: all their columns, or those of `update`.

    Gives the number of both, of a merge; 0 of a first fold.

    Runs that end at the same moment, and share a table, take turns, for which the later one waits `wait_s`; where the
    store has no need of that, they conflict, and the later one tries again.
    """
    changes = "*" if update is None else ", ".join(f"t.{quoted(c)} = s.{quoted(c)}" for c in update)
    actions = f"WHEN MATCHED THEN UPDATE SET {changes} {'WHEN NOT MATCHED THEN INSERT *' if insert else ''}"
    with lease_of(spark, location, wait_s)():
        for left in reversed(range(_TRIES)):
            try:
                with mapped(spark):
                    return _brought(spark, DeltaTable(location), keys, rows, actions, of_runs=of_runs)
            except SparkscoreError as failure:
                if failure.code != "SPS-CLUSTER-CONFLICT" or not left:
                    raise
                time.sleep(random.random())
    raise AssertionError("the last try returns or raises")


def _brought(
    spark: SparkSession, table: DeltaTable, keys: tuple[str, ...], rows: DataFrame, actions: str, *, of_runs: _OfRuns
) -> int:
    if of_runs.is_first and of_runs.ids and append_once(spark, table, rows, of_runs.transactions[0]):
        return 0
    if newest_version(spark, table.location) is None:
        table.write(rows.limit(0), {})
    for transaction in of_runs.transactions:
        shut_out(spark, table, transaction)
    view = f"sparkscore_{uuid.uuid4().hex}"
    rows.createOrReplaceTempView(view)
    try:
        on = " AND ".join(f"t.{quoted(k)} = s.{quoted(k)}" for k in keys)
        merged = spark.sql(f"MERGE INTO {table.sql} AS t USING {view} AS s ON {on} {actions}")
        return int(merged.collect()[0].num_affected_rows)
    finally:
        spark.catalog.dropTempView(view)


def _quarantine_rows(bad: DataFrame, names: Sequence[str], keep_days: int) -> DataFrame:
    from pyspark.sql import functions as F

    keys = [item for k in names for item in (F.lit(k), F.col(quoted(k)).cast("string"))]
    keys_map = F.create_map(*keys) if keys else F.create_map().cast("map<string,string>")
    now = F.current_timestamp()
    own = {
        "q_id": F.sha2(
            F.concat_ws(
                "|", "_ss.run_id", "_ss.unit_id", F.coalesce("_ss.source_pointer", F.to_json(keys_map)), "_ss.stage"
            ),
            256,
        ),
        "keys": keys_map,
        "payload_mode": F.expr(_MODE),
        "first_seen_at": now,
        "last_seen_at": now,
        "expires_at": now + F.expr(f"INTERVAL {keep_days} DAYS"),
        "state": F.lit("open"),
        "resolved_run_id": F.lit(None),
    }
    return bad.select(
        *((own[c.name] if c.name in own else F.col(f"_ss.{c.name}")).cast(c.type).alias(c.name) for c in QUARANTINE)
    )
