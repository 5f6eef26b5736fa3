"""What a Delta table's public answers say about a version: its number, its history, and whether its files are plain.

Plain files can be read as Parquet without getting another answer than Delta would give.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime import files
from sparkscore.spark.schemas import quoted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = [
    "FILE_RETENTION",
    "LEAST_FILE_RETENTION_H",
    "PARTITION_VALUES",
    "DeltaTable",
    "commit_info",
    "delta_path",
    "history",
    "newest_version",
    "plain_refusal",
    "retention_hours",
    "version_at",
]

# What VACUUM without a number leaves alone; and how long a unit may take, generously, until its commit names its files.
FILE_RETENTION = "delta.deletedFileRetentionDuration"
LEAST_FILE_RETENTION_H = 24
_HOURS = {"week": 168.0, "day": 24.0, "hour": 1.0, "minute": 1 / 60, "second": 1 / 3600}

# What Delta keeps the least and the greatest value of for each file: if not told, of the first 32 leaves of the schema.
_STATISTICS = "delta.dataSkippingStatsColumns"
_SS_STATISTICS = ("status", "run_id", "unit_seq", "unit_id", "scored_at")  # what readers and proofs ask for
_MOST_STATISTICS = 32

# Reader features under which the data files still hold exactly the table's rows and names.
_HARMLESS = frozenset({"timestampNtz", "vacuumProtocolCheck", "v2Checkpoint"})
_HARMFUL = ("deletionVectors", "columnMapping", "typeWidening", "typeWidening-preview")
# Partition types whose directory names Spark parses to the same values as Delta keeps in its log.
_PARTITION_TYPES = frozenset({"string", "integer", "date", "boolean"})
PARTITION_VALUES = "partition values"  # what a refusal on their account begins with
_MISSING = (
    *("DELTA_MISSING_DELTA_TABLE", "DELTA_TABLE_NOT_FOUND", "DELTA_TABLE_ONLY_OPERATION", "DELTA_ONLY_OPERATION"),
    *("PATH_NOT_FOUND", "TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND"),
)


@dataclass(frozen=True)
class DeltaTable:
    """A Delta table by its location, or by its name in the catalog."""

    location: str = ""
    name: str = ""

    @property
    def sql(self) -> str:
        """Its name in SQL."""
        return ".".join(quoted(part) for part in self.name.split(".")) if self.name else delta_path(self.location)

    def place(self, spark: SparkSession) -> str | None:
        """Say where its files are; None for a table of the catalog that is not there yet."""
        if self.location or not spark.catalog.tableExists(self.name):
            return self.location or None
        return str(spark.sql(f"DESCRIBE DETAIL {self.sql}").select("location").collect()[0].location)

    def read(self, spark: SparkSession, version: int | None = None) -> DataFrame:
        """Read the table, as it is or as it was at a version."""
        at = {} if version is None else {"versionAsOf": str(version)}
        reader = spark.read.format("delta").options(**at)
        return reader.table(self.sql) if self.name else reader.load(self.location)

    def write(self, frame: DataFrame, options: Mapping[str, str], sink: Any | None = None) -> None:
        """Append a frame in one commit, or write it in the mode and the partitions of a sink.

        A table that this makes keeps statistics of what is asked for (`_statistics`). A table that is there keeps its
        own way: Delta looks at the option of a new one only.

        A table of the catalog, which `make` has made, is written by `writeTo`: `insertInto` ignores Delta's
        transactions, so rows would come twice, without a warning; `saveAsTable` drops the commit's metadata where it
        makes the table, and in an overwrite replaces the table's own definition (Delta 4.4).
        """
        overwrites = sink is not None and sink.mode == "overwrite"
        partition_by = sink.partition_by if sink is not None else ()
        where = sink.replace_where if sink is not None else None
        if self.name:
            by_name = frame.writeTo(self.sql).options(**options)
            if overwrites:
                from pyspark.sql import functions as F

                by_name.overwrite(F.expr(where or "true"))
            else:
                by_name.append()
            return
        options = {**(_statistics(frame.schema, partition_by) if sink is not None else {}), **options}
        writer = frame.write.format("delta").mode("overwrite" if overwrites else "append").options(**options)
        if where:
            writer = writer.option("replaceWhere", where)
        if partition_by:
            writer = writer.partitionBy(*partition_by)
        writer.save(self.location)

    def make(self, frame: DataFrame, partition_by: Sequence[str]) -> None:
        """Make a table of the catalog without rows, so that each commit of rows is one that carries its metadata.

        A table by its location is made by its first commit.
        """
        spark = frame.sparkSession
        if self.name and not spark.catalog.tableExists(self.name):
            options = _statistics(frame.schema, partition_by)
            writer = spark.createDataFrame([], frame.schema).write.format("delta").mode("ignore").options(**options)
            (writer.partitionBy(*partition_by) if partition_by else writer).saveAsTable(self.sql)

    def __str__(self) -> str:
        return self.name or self.location


def _statistics(schema: StructType, partition_by: Sequence[str]) -> dict[str, str]:
    """Name the columns that a table of scores keeps statistics of: five of the 19 fields of `_ss`, and the user's own.

    Statistics of all of `_ss` are 600 CPU ns a row, a seventh of a run of a small model (docs/decisions/0033).
    """
    from pyspark.sql.types import DateType, NumericType, StringType, TimestampNTZType, TimestampType

    known = (NumericType, StringType, DateType, TimestampType, TimestampNTZType)
    apart = {"_ss", *(name.lower() for name in partition_by)}
    own = [f.name for f in schema if isinstance(f.dataType, known) and f.name.lower() not in apart]
    own = [quoted(name) for name in own if "`" not in name]  # one that has it cannot be dropped (Delta 4.4)
    of_ss: list[str] = next((cast("StructType", f.dataType).fieldNames() for f in schema if f.name == "_ss"), [])
    named = [*(f"_ss.{name}" for name in _SS_STATISTICS if name in of_ss), *own]
    return {_STATISTICS: ",".join(named[:_MOST_STATISTICS])}


def delta_path(location: str) -> str:
    """Name a table by its path in SQL; `` delta.`path` `` needs an absolute one."""
    local = files.local_path(location)
    return f"delta.`{local.absolute() if local is not None else location}`"


def history(spark: SparkSession, table: str, limit: int | None = None) -> list[Any]:
    """List the newest commits of a table, by its name in SQL: rows of version, timestamp, userMetadata.

    Empty when there is no table.
    """
    from pyspark.errors import AnalysisException

    tail = f" LIMIT {limit}" if limit is not None else ""
    try:
        frame = spark.sql(f"DESCRIBE HISTORY {table}{tail}")
        return frame.select("version", "timestamp", "userMetadata").collect()
    except AnalysisException as cause:
        if any(name in str(cause) for name in _MISSING):
            return []
        if "PARSE_SYNTAX_ERROR" in str(cause):
            raise error(
                "SPS-ENV-PACKAGE",
                "Expected a Spark session with Delta. Got one that does not know DESCRIBE HISTORY.",
                "Start it, or the Connect server that gives it, with Delta's jars (`sparkscore jars`) and the settings "
                "spark.sql.extensions and spark.sql.catalog.spark_catalog, as README.md shows for spark-submit.",
                session=f"Spark {spark.version} at {spark.conf.get('spark.master', 'an unknown master')}",
            ) from cause
        raise


def commit_info(location: str, version: int) -> dict[str, Any]:
    """Give the `commitInfo` of a version's entry in the log; empty where the entry cannot be read."""
    try:
        entry = files.read_bytes(f"{location.rstrip('/')}/_delta_log/{version:020d}.json")
        actions = [json.loads(line) for line in entry.splitlines()]
    except (FileNotFoundError, ValueError, SparkscoreError):
        return {}
    return next((action["commitInfo"] for action in actions if "commitInfo" in action), {})


def newest_version(spark: SparkSession, location: str) -> int | None:
    """Give the newest version of a table, None when there is none."""
    found = history(spark, delta_path(location), limit=1)
    return int(found[0].version) if found else None


def version_at(spark: SparkSession, location: str, timestamp: str) -> int:
    """Give the version that was the newest at a time (Delta's `timestampAsOf`)."""
    from pyspark.sql import functions as F

    frame = spark.sql(f"DESCRIBE HISTORY {delta_path(location)}")
    before = frame.where(F.col("timestamp") <= F.lit(timestamp).cast("timestamp")).agg(F.max("version")).collect()
    if before[0][0] is None:
        raise error(
            "SPS-ENV-SOURCE",
            f"Expected a version of {location} at or before {timestamp}. Got a history that begins later.",
            "Give source.version, or a later source.timestamp.",
        )
    return int(before[0][0])


def plain_refusal(spark: SparkSession, location: str, version: int, newest: int, paths: Sequence[str]) -> str:
    """Say why the files of a version cannot be read as plain Parquet; empty when they can.

    The proof is the `.crc` file of that very version. Where it is absent, DESCRIBE DETAIL decides, and only for the
    newest version: it speaks of the table as it is now. What cannot be established counts as present.
    """
    crc = _crc(location, version)
    if crc is not None:
        reason = _crc_refusal(crc)
        types = {f["name"]: f["type"] for f in json.loads(crc["metadata"]["schemaString"])["fields"]}
        return reason or _partition_refusal(location, crc["metadata"].get("partitionColumns", []), types, paths)
    if version != newest:
        return "the protocol of an older version cannot be established"
    detail = spark.sql(f"DESCRIBE DETAIL {delta_path(location)}").select("tableFeatures", "partitionColumns").collect()
    present = [f for f in _HARMFUL if f in (detail[0].tableFeatures or [])]
    if present or newest_version(spark, location) != version:
        return ", ".join(present) or "the table changed while it was looked at"
    frame = spark.read.format("delta").option("versionAsOf", str(version)).load(location)
    types = {f.name: f.dataType.typeName() for f in frame.schema.fields}
    return _partition_refusal(location, detail[0].partitionColumns, types, paths)


def _crc(location: str, version: int) -> Any | None:
    try:
        return json.loads(files.read_bytes(f"{location.rstrip('/')}/_delta_log/{version:020d}.crc"))
    except (FileNotFoundError, ValueError):
        return None


def _crc_refusal(crc: Any) -> str:
    features = set(crc["protocol"].get("readerFeatures") or []) - _HARMLESS
    if crc["protocol"].get("minReaderVersion", 1) >= 3 and features == {"deletionVectors"}:
        return "" if crc.get("numDeletionVectorsOpt") == 0 else "deletionVectors"
    if features:
        return ", ".join(sorted(features))
    mapping = crc["metadata"].get("configuration", {}).get("delta.columnMapping.mode", "none")
    return "" if mapping == "none" else "columnMapping"


def _partition_refusal(location: str, names: Sequence[str], types: dict[str, Any], paths: Sequence[str]) -> str:
    """Directory names are a convention, not the protocol: every file must follow it for every partition column."""
    wrong = [n for n in names if types.get(n) not in _PARTITION_TYPES]
    if wrong:
        return f"{PARTITION_VALUES}: {wrong[0]} is of type {types.get(wrong[0])}"
    for path in paths:
        folders = path.split("/")[:-1]
        found = [unquote(f.split("=", 1)[0]) for f in folders[len(folders) - len(names) :]] if names else []
        if found != list(names):
            return f"{PARTITION_VALUES}: the file {path} is not in folders of them"
    return ""


def retention_hours(interval: str) -> float:
    """Give the hours of an interval as Delta's table properties have it: ``interval 1 week 2 days``."""
    return sum(float(n) * _HOURS[unit] for n, unit in re.findall(rf"(\d+)\s+({'|'.join(_HOURS)})", interval))
