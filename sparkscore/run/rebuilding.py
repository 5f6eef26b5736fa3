"""The ledger's tables made anew from its event objects, whatever has become of the tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.fold import run_ids
from sparkscore.ledger.store import Store
from sparkscore.run.folding import LedgerTable, ledger_tables
from sparkscore.run.leasing import lease_of
from sparkscore.runtime import files
from sparkscore.spark.failures import mapped
from sparkscore.spark.sessions import is_over

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["rebuild_tables"]

# No fault of the table: it is left as it is.
_KEPT = ("SPS-ENV-ACCESS", "SPS-ENV-PACKAGE", "SPS-CLUSTER-STORAGE", "SPS-CLUSTER-LEASE")


def rebuild_tables(spark: SparkSession, store: Store, say: Callable[[str], None] = lambda line: None) -> dict[str, int]:
    """Replace the tables `runs` and `units` by what the events say, in one commit each; give the rows of each.

    A table whose log cannot be read any more has its log moved to ``tables/_broken/``, and begins again. Nothing is
    deleted. The quarantine is no table of the events: it is derived from the sinks, by each run's own end.
    """
    written = {}
    for table in ledger_tables(spark, store, run_ids(store)):
        try:
            _replace(spark, table)
        except SparkscoreError as failure:
            if failure.code in _KEPT or not _is_unreadable(spark, table):
                raise
            _set_aside(table, store)
            say(f"the log of {table.location} could not be read and is in tables/_broken now: {failure.message}")
            _replace(spark, table)
        written[table.name] = table.rows
    return written


def _replace(spark: SparkSession, table: LedgerTable) -> None:
    with lease_of(spark, table.location)(), mapped(spark):
        writer = table.frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
        writer.save(table.location)


def _is_unreadable(spark: SparkSession, table: LedgerTable) -> bool:
    """Tell whether it is the table that failed, and neither another writer of it nor the session."""
    try:
        spark.read.format("delta").load(table.location).limit(1).collect()
    except Exception:  # boundary: that it fails is the answer
        return not is_over(spark)
    return False


def _set_aside(table: LedgerTable, store: Store) -> None:
    """Move a table's log away, object by object where the store knows no folders; its data files lie unnamed then."""
    log = f"{table.location}/_delta_log"
    aside = f"{store.root.rstrip('/')}/tables/_broken/{table.name}-{time.time_ns()}"
    for file in files.list_files(log):
        files.move(file.uri, f"{aside}/{file.uri[len(log) + 1 :]}")
