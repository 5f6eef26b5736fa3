"""The bad rows of a run: from the quarantine table once the run is closed, from its committed rows before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sparkscore.errors import error
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.keys import recorded_key
from sparkscore.run.lines import line_of
from sparkscore.runtime import files
from sparkscore.runtime.sealing import MARK, Opener
from sparkscore.spark.delta_log import newest_version
from sparkscore.spark.failures import mapped
from sparkscore.tables import QUARANTINE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Shown", "bad_rows", "export_rows", "shown_rows"]

Shown = Literal["none", "stored", "clear"]


def bad_rows(spark: SparkSession, plan: Plan, store: Store, quarantine: str) -> DataFrame:
    """Read the bad rows of a run: columns of `sparkscore.tables.QUARANTINE`, of a run still open those of `_ss` alone.

    Lazy; no payload of a row is hidden or shown that the table does not hold.
    """
    from pyspark.sql import functions as F

    delta = spark.read.format("delta")
    if newest_version(spark, quarantine) is not None:
        folded = delta.load(quarantine).where(F.col("run_id") == plan.run_id)
        if not folded.isEmpty():
            return folded.select(*(c.name for c in QUARANTINE))
    committed = line_of(spark, plan, store).rows()
    if committed is None:
        return spark.createDataFrame([], "source_pointer string")
    return committed.select("_ss.*").where(F.col("status") == "error")


def shown_rows(spark: SparkSession, store: Store, plan: Plan, quarantine: str, payload: Shown) -> DataFrame:
    """Read the bad rows of a run for a person or a file; `payload` is left out, as it is stored, or in clear.

    Raises
    ------
    ClusterError
        `SPS-ENV-KEY` when they are to be in clear and the key is not here.
    """
    from pyspark.sql import functions as F

    rows = bad_rows(spark, plan, store, quarantine)
    if payload == "none" or "payload" not in rows.columns:
        return rows.drop("payload")
    sealed = F.expr(f"startswith(payload, X'{MARK.hex()}')")
    if payload == "clear":
        key = recorded_key(store, plan.run_id)
        if key is None:
            return rows.withColumn("payload", F.col("payload").cast("string"))
        rows, sealed = rows.mapInArrow(Opener(key), rows.schema), F.lit(False)
    text = F.when(sealed, F.base64("payload")).otherwise(F.col("payload").cast("string"))
    return rows.withColumn("payload", text)


def export_rows(rows: DataFrame, kind: Literal["parquet", "csv", "json"], place: str) -> int:
    """Write bad rows as files into a new folder, and give their number; CSV has `keys` as JSON.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` when the folder has something in it.
    """
    from pyspark.sql import functions as F

    if any(True for _ in files.list_files(place)):
        raise error("SPS-SPEC-VALUE", f"Expected a new or empty folder at {place}. Got files in it.", "Give another.")
    if kind == "csv" and "keys" in rows.columns:
        rows = rows.withColumn("keys", F.to_json("keys"))
    options = {"header": "true", "escape": '"'} if kind == "csv" else {}
    spark = rows.sparkSession
    with mapped(spark, location=place):
        rows.write.format(kind).options(**options).mode("append").save(place)
        return spark.read.format(kind).schema(rows.schema).options(**options).load(place).count()
