"""The Delta tables that are derived: quarantine from the committed rows, runs and units from the events.

Each fold merges on the table's key, so it may be repeated after any crash.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.fold import run_rows, unit_rows
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.line import Line
from sparkscore.run.planning import quarantine_location
from sparkscore.spark.delta_log import delta_path, newest_version
from sparkscore.spark.failures import mapped
from sparkscore.spark.schemas import quoted
from sparkscore.tables import QUARANTINE, RUNS, UNITS, ddl

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["fold_quarantine", "fold_run"]

_KEEP_DAYS = 30
_TRIES = 5


def fold_quarantine(spark: SparkSession, pipeline: Any, plan: Plan, line: Line) -> None:
    """Merge the run's bad rows, read from its committed rows, into the quarantine table."""
    from pyspark.sql import functions as F

    committed = line.rows()
    if committed is None:  # an empty input, which the pipeline allows: there may be no sink yet
        return
    bad = committed.where(F.col("_ss.status") == "error")
    rows = _quarantine_rows(bad, plan.header["keys"], pipeline.quarantine.payload).dropDuplicates(["q_id"])
    merge(spark, quarantine_location(pipeline), ("q_id",), rows, update=("last_seen_at",))


def fold_run(spark: SparkSession, store: Store, run_id: str) -> None:
    """Merge a run's attempts and units into the ledger's tables `runs` and `units`."""
    tables = f"{store.root.rstrip('/')}/tables"
    for name, columns, keys, rows in (
        ("runs", RUNS, ("run_id", "attempt"), run_rows(store, run_id)),
        ("units", UNITS, ("run_id", "unit_seq"), unit_rows(store, run_id)),
    ):
        frame = spark.createDataFrame([tuple(r[c.name] for c in columns) for r in rows], ddl(columns))
        merge(spark, f"{tables}/{name}", keys, frame)


def merge(
    spark: SparkSession,
    location: str,
    keys: tuple[str, ...],
    rows: DataFrame,
    *,
    update: tuple[str, ...] | None = None,
) -> None:
    """Insert rows whose key is new, and update the others: all their columns, or those of `update`.

    A table that is not there yet begins with the rows, in one commit instead of two and a join. Runs that end at the
    same moment, and share a table, conflict: the later one tries again.
    """
    for _ in range(_TRIES - 1):
        try:
            with mapped(spark):
                _merge_once(spark, location, keys, rows, update)
        except SparkscoreError as failure:
            if failure.code != "SPS-CLUSTER-CONFLICT":
                raise
            time.sleep(random.random())
        else:
            return
    _merge_once(spark, location, keys, rows, update)


def _merge_once(
    spark: SparkSession, location: str, keys: tuple[str, ...], rows: DataFrame, update: tuple[str, ...] | None
) -> None:
    if newest_version(spark, location) is None:
        rows.write.format("delta").mode("append").save(location)
        return
    view = f"sparkscore_{uuid.uuid4().hex}"
    rows.createOrReplaceTempView(view)
    try:
        on = " AND ".join(f"t.{quoted(k)} = s.{quoted(k)}" for k in keys)
        changes = "*" if update is None else ", ".join(f"t.{quoted(c)} = s.{quoted(c)}" for c in update)
        spark.sql(
            f"MERGE INTO {delta_path(location)} AS t USING {view} AS s ON {on} "
            f"WHEN MATCHED THEN UPDATE SET {changes} WHEN NOT MATCHED THEN INSERT *"
        )
    finally:
        spark.catalog.dropTempView(view)


def _quarantine_rows(bad: DataFrame, names: Sequence[str], payload_mode: str) -> DataFrame:
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
        "payload_mode": F.lit(payload_mode),
        "first_seen_at": now,
        "last_seen_at": now,
        "expires_at": now + F.expr(f"INTERVAL {_KEEP_DAYS} DAYS"),
        "state": F.lit("open"),
        "resolved_run_id": F.lit(None),
    }
    return bad.select(
        *((own[c.name] if c.name in own else F.col(f"_ss.{c.name}")).cast(c.type).alias(c.name) for c in QUARANTINE)
    )
