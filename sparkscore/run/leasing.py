"""Which tables are written under a lease: those whose store lets two writers take one version of the table."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from sparkscore.errors import error
from sparkscore.ledger.lease import Lease
from sparkscore.ledger.store import open_store
from sparkscore.runtime.files import is_hdfs, is_s3
from sparkscore.spark.delta_log import DeltaTable

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["lease_of", "lease_of_table"]

_VARIABLE = "SPARKSCORE_LEASE_TIMEOUT_S"


def lease_of(
    spark: SparkSession, location: str, timeout_s: float | None = None, run_id: str | None = None
) -> Callable[[], AbstractContextManager[None]]:
    """Give what keeps other writers of ours from a Delta table: ``with held():`` around each of its commits.

    Parameters
    ----------
    spark : SparkSession
        Its settings name the log store.
    location : str
        The table.
    timeout_s : float, optional
        How long a live writer is waited for; by default ``SPARKSCORE_LEASE_TIMEOUT_S``, else 600.

    run_id : str, optional
        The run that writes its rows, for which a lease of its earlier attempt is no hindrance.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` when the variable is no number of seconds.
    """
    if takes_several_writers(spark, location):
        return nullcontext
    return Lease(open_store(location), timeout_s=_timeout_s() if timeout_s is None else timeout_s, run_id=run_id).held


def lease_of_table(spark: SparkSession, table: DeltaTable, run_id: str) -> Callable[[], AbstractContextManager[None]]:
    """Give a run the lease of its sink, by place or by name in the catalog; none of one that is not there yet."""
    place = table.place(spark)
    return nullcontext if place is None else lease_of(spark, place, run_id=run_id)


def takes_several_writers(spark: SparkSession, location: str) -> bool:
    """Tell whether Delta's commit refuses a version that another application took first.

    HDFS renames to a free name only, and DBFS is a service of its own. On S3 Delta checks and then writes, unless it is
    told to ask a DynamoDB table; on a local disk two JVMs do not see each other.
    """
    scheme = location.partition(":")[0].lower()
    if is_s3(location):
        names = (f"spark.delta.logStore.{scheme}.impl", "spark.delta.logStore.class")
        return any("DynamoDB" in (spark.conf.get(name, None) or "") for name in names)
    return is_hdfs(location) or scheme == "dbfs"


def _timeout_s() -> float:
    text = os.environ.get(_VARIABLE, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if seconds >= 0:
        return seconds
    raise error("SPS-SPEC-VALUE", f"Expected seconds in {_VARIABLE}. Got {text!r}.", "Write a number, or unset it.")
