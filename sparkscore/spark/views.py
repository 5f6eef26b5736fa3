"""The two views of a catalog table: `<table>_ok`, its good rows, and `<table>_errors`, its bad ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkscore.errors import error
from sparkscore.spark.delta_log import DeltaTable

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["check_views", "make_views"]

_STATUS = {"ok": "ok", "errors": "error"}


def make_views(spark: SparkSession, table: DeltaTable) -> None:
    """Make the views of a table that has a name, where they are not there yet."""
    for kind, status in _STATUS.items() if table.name else ():
        view = DeltaTable(name=f"{table.name}_{kind}").sql
        spark.sql(f"CREATE VIEW IF NOT EXISTS {view} AS SELECT * FROM {table.sql} WHERE _ss.status = '{status}'")


def check_views(spark: SparkSession, table: DeltaTable) -> None:
    """Refuse a table whose views' names are taken by something else.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`.
    """
    for kind in _STATUS if table.name else ():
        name = f"{table.name}_{kind}"
        if spark.catalog.tableExists(name) and spark.catalog.getTable(name).tableType != "VIEW":
            raise error(
                "SPS-SPEC-SINK",
                f"Expected {name} to be free for a view of the sink. Got a table of that name.",
                "Give sink.table another name, or rename that table.",
                where="sink.table",
            )
