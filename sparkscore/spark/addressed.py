"""Rows of a source by their addresses: those that a version of the quarantine holds as open, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkscore.spark.prepare import apply_where
from sparkscore.spec.scoring import BLOCK_COL, FILE_COL, ROW_COL

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["OpenRows", "only_rows"]

_WANTED = "_ss_wanted"
_ORDER = "_ss_order"


@dataclass(frozen=True)
class OpenRows:
    """The open rows of a run as a version of its quarantine has them: the same ones on each attempt of a replay."""

    run_id: str
    quarantine: str
    version: int
    where: str | None = None  # what left the source before rows without an index were numbered

    def read(self, spark: SparkSession) -> DataFrame:
        """Read them; columns of `sparkscore.tables.QUARANTINE`."""
        from pyspark.sql import functions as F

        table = spark.read.format("delta").option("versionAsOf", str(self.version)).load(self.quarantine)
        return table.where((F.col("run_id") == self.run_id) & (F.col("state") == "open"))


def only_rows(spark: SparkSession, frame: DataFrame, only: OpenRows) -> DataFrame:
    """Keep the rows of a frame with addresses whose address is wanted; each keeps the address that it had.

    Notes
    -----
    Formats without a row index number the rows of a block in the order in which one task reads them
    (`sparkscore.scoring.intake`). Here the rows are numbered before most of them go: the ids that Spark gives ascend
    in that same order, so the rank of a row's id in its block is its ordinal. What `source.where` leaves is numbered.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    if BLOCK_COL in frame.columns:
        frame = apply_where(frame, only.where)
        in_block = Window.partitionBy(FILE_COL, BLOCK_COL).orderBy(_ORDER)
        ordinal = F.row_number().over(in_block) - 1
        numbered = frame.withColumn(_ORDER, F.monotonically_increasing_id())
        index = F.concat_ws("+", F.col(BLOCK_COL).cast("string"), ordinal.cast("string"))
        frame = numbered.withColumn(ROW_COL, index).drop(BLOCK_COL, _ORDER)
    wanted = only.read(spark).select(F.col("source_pointer").alias(_WANTED)).distinct()
    address = F.concat_ws("#", F.col(FILE_COL), F.col(ROW_COL).cast("string"))
    return frame.join(wanted, address == F.col(_WANTED), "left_semi")
