"""The Delta tables that are derived: quarantine from the committed rows, runs and units from the events.

Each fold merges on the table's key, so it may be repeated after any crash.
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
from sparkscore.ledger.fold import run_rows, unit_rows
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.leasing import lease_of
from sparkscore.run.line import Line
from sparkscore.run.planning import quarantine_location
from sparkscore.runtime.sealing import MARK
from sparkscore.spark.delta_log import delta_path, newest_version
from sparkscore.spark.failures import mapped
from sparkscore.spark.schemas import quoted
from sparkscore.tables import QUARANTINE, RUNS, UNITS, ddl

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


def fold_quarantine(spark: SparkSession, pipeline: Any, plan: Plan, line: Line) -> None:
    """Merge the run's bad rows, read from its committed rows, into the quarantine table."""
    from pyspark.sql import functions as F

    committed = line.rows()
    if committed is None:  # an empty input, which the pipeline allows: there may be no sink yet
        return
    bad = committed.where(F.col("_ss.status") == "error")
    rows = _quarantine_rows(bad, plan.header["keys"], pipeline.quarantine.keep_days).dropDuplicates(["q_id"])
    merge(spark, quarantine_location(pipeline), ("q_id",), rows, update=("last_seen_at",))


def fold_run(spark: SparkSession, store: Store, *run_ids: str) -> dict[str, int]:
    """Merge the attempts and units of runs into the ledger's tables `runs` and `units`; give the rows of each.

    Nothing is given when other runs keep a table busy: the fold is left to a later one, since the events are the truth.
    """
    folded = {}
    for table in ledger_tables(spark, store, run_ids):
        try:
            merge(spark, table.location, table.keys, table.frame, wait_s=_LEDGER_WAIT_S)
        except SparkscoreError as busy:
            if busy.code not in ("SPS-CLUSTER-LEASE", "SPS-CLUSTER-CONFLICT"):
                raise
            _log.warning(
                "run %s: left to a later fold of the table %s: %s", ", ".join(run_ids), table.name, busy.message
            )
            return {}
        folded[table.name] = table.rows
    return folded


def tables_folded(spark: SparkSession, store: Store, run_id: str) -> bool:
    """Show the run in the ledger's tables; the events stay the truth when that fails."""
    try:
        return bool(fold_run(spark, store, run_id))
    except Exception:  # boundary: a run has ended as it has, whatever becomes of the tables
        _log.warning(
            "the tables of run %s could not be folded; the same run id again folds them", run_id, exc_info=True
        )
        return False


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
        rows = [tuple(row[c.name] for c in columns) for run_id in run_ids for row in of_run(store, run_id)]
        location = f"{store.root.rstrip('/')}/tables/{name}"
        found.append(LedgerTable(name, location, keys, spark.createDataFrame(rows, ddl(columns)), len(rows)))
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
) -> int:
    """Insert rows whose key is new, if so asked, and update the others: all their columns, or those of `update`.

    Gives the number of both; 0 for a table that begins with the rows.

    A table that is not there yet begins with the rows, in one commit instead of two and a join. Runs that end at the
    same moment, and share a table, take turns, for which the later one waits `wait_s`; where the store has no need of
    that, they conflict, and the later one tries again.
    """
    with lease_of(spark, location, wait_s)():
        return _merge(spark, location, keys, rows, update=update, insert=insert)


def _merge(
    spark: SparkSession,
    location: str,
    keys: tuple[str, ...],
    rows: DataFrame,
    *,
    update: tuple[str, ...] | None,
    insert: bool,
) -> int:
    for _ in range(_TRIES - 1):
        try:
            with mapped(spark):
                return _merge_once(spark, location, keys, rows, update=update, insert=insert)
        except SparkscoreError as failure:
            if failure.code != "SPS-CLUSTER-CONFLICT":
                raise
            time.sleep(random.random())
    with mapped(spark):
        return _merge_once(spark, location, keys, rows, update=update, insert=insert)


def _merge_once(
    spark: SparkSession,
    location: str,
    keys: tuple[str, ...],
    rows: DataFrame,
    *,
    update: tuple[str, ...] | None,
    insert: bool,
) -> int:
    if newest_version(spark, location) is None:
        rows.write.format("delta").mode("append").save(location)
        return 0
    view = f"sparkscore_{uuid.uuid4().hex}"
    rows.createOrReplaceTempView(view)
    try:
        on = " AND ".join(f"t.{quoted(k)} = s.{quoted(k)}" for k in keys)
        changes = "*" if update is None else ", ".join(f"t.{quoted(c)} = s.{quoted(c)}" for c in update)
        merged = spark.sql(
            f"MERGE INTO {delta_path(location)} AS t USING {view} AS s ON {on} "
            f"WHEN MATCHED THEN UPDATE SET {changes} {'WHEN NOT MATCHED THEN INSERT *' if insert else ''}"
        )
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
