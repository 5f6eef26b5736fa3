"""The good rows of the runs that succeeded, whatever the sink: the one entrance for readers."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkscore.errors import error
from sparkscore.ledger.store import Store, open_store
from sparkscore.runtime import files
from sparkscore.spark.delta_log import DeltaTable, newest_version
from sparkscore.spark.failures import mapped
from sparkscore.spark.unit_files import Layout, read_rows
from sparkscore.spec.fields import located

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["read_scores"]


def read_scores(spark: SparkSession, sink: str, ledger: str | None = None) -> DataFrame:
    """Read the good rows of the runs that succeeded: no bad row, and none of a run that is open, failed or discarded.

    Parameters
    ----------
    spark : SparkSession
    sink : str
        A sink's location, with a '/' in it, or the name of a catalog table.
    ledger : str, optional
        Of a Delta sink, whose runs it knows; default ``<location>_ledger``. A sink of files tells by itself.

    Returns
    -------
    DataFrame
        `_ss`, the kept columns, the outputs. Lazy; scores nothing.

    Raises
    ------
    ClusterError
        `SPS-ENV-SOURCE` when there is no sink, or no ledger beside it; `SPS-ENV-EMPTY` when no run of a sink of files
        has been published yet.

    Examples
    --------
    >>> read_scores(spark, "s3a://lake/scores").groupBy("day").count()  # doctest: +SKIP
    """
    from pyspark.sql import functions as F

    with mapped(spark, location=sink):
        if "/" not in sink:
            rows = _of_delta(spark, DeltaTable(name=sink), ledger)
        else:
            location = located(sink, Path.cwd())
            is_delta = files.stat([f"{location.rstrip('/')}/_delta_log"])[0] is not None
            beside = ledger or f"{location.rstrip('/')}_ledger"
            rows = _of_delta(spark, DeltaTable(location), beside) if is_delta else _of_files(spark, location)
    return rows.where(F.col("_ss.status") == "ok")


def _of_delta(spark: SparkSession, table: DeltaTable, ledger: str | None) -> DataFrame:
    from pyspark.sql import functions as F

    runs = f"{(ledger or '').rstrip('/')}/tables/runs"
    if not ledger or newest_version(spark, runs) is None:
        raise error(
            "SPS-ENV-SOURCE",
            f"Expected the ledger of {table}, which knows its runs. Got {f'no table {runs}' if ledger else 'none'}.",
            "Give `ledger`, the folder that the pipeline file names.",
        )
    states = spark.read.format("delta").load(runs)
    succeeded = states.where(F.col("state") == "SUCCEEDED").select(F.col("run_id").alias("_ss_run")).distinct()
    rows = table.read(spark)
    return rows.join(succeeded, rows["_ss.run_id"] == succeeded["_ss_run"], "left_semi")


def _of_files(spark: SparkSession, location: str) -> DataFrame:
    store = open_store(location)
    names = store.names("_manifests")
    if not names:
        raise error(
            "SPS-ENV-SOURCE",
            f"Expected a sink of sparkscore at {location}. Got neither a Delta log nor manifests.",
            "Give the sink's own location, as its pipeline file has it.",
        )
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in (_published(store, name) for name in names):
        if run is not None and run["files"]:
            alike = json.dumps([run["base"], run["layout"], run["schema"]])
            paths = [f"{_base(location, run)}/{path}" for path in run["files"]]
            groups.setdefault(alike, (run, []))[1].extend(paths)
    if not groups:
        raise error(
            "SPS-ENV-EMPTY",
            f"Expected a published run in {location}. Got {len(names)} that are open, discarded or without rows.",
            "Wait for a run to succeed: `sparkscore runs list`.",
        )
    frames = [_read(spark, location, run, paths) for run, paths in groups.values()]
    return reduce(lambda a, b: a.unionByName(b), frames)


def _published(store: Store, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] = json.loads(store.get(f"_manifests/{name}/run.json") or b"{}")
    return found if found.get("state") == "published" else None


def _base(location: str, run: dict[str, Any]) -> str:
    return f"{location.rstrip('/')}/{run['base']}".rstrip("/")


def _read(spark: SparkSession, location: str, run: dict[str, Any], paths: list[str]) -> DataFrame:
    from pyspark.sql.types import StructType

    keys = run["layout"]
    layout = Layout(keys["format"], tuple(keys["partition_by"]), tuple((k, v) for k, v in keys["options"]))
    schema = StructType.fromJson(json.loads(run["schema"]))
    frame: DataFrame = read_rows(spark, {_base(location, run): paths}, layout, schema)
    return frame
