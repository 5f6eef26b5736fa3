"""One Delta commit a unit, and the proof of it: who committed which unit, and what the committed rows say.

Public means only: DataFrame writer and reader options, DESCRIBE HISTORY, and the open protocol's log entries. Rows are
counted from committed files, never from accumulators or `observe()`, which count attempts.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.runtime import files
from sparkscore.spark.carriers import TASK_COL
from sparkscore.spark.delta_log import (
    FILE_RETENTION,
    LEAST_FILE_RETENTION_H,
    DeltaTable,
    commit_info,
    history,
    retention_hours,
)
from sparkscore.spark.schemas import arrow_schema
from sparkscore.spec.scoring import ERR_COL, POINTER_COL
from sparkscore.tables import ERR, SS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

__all__ = [
    "Commit",
    "Committed",
    "app_id",
    "append_once",
    "assert_same_columns",
    "check_sink",
    "commits_of",
    "count_rows",
    "count_statuses",
    "count_units",
    "discard",
    "own_commit",
    "publish_app_id",
    "published_at",
    "shut_out",
    "ss_sql",
    "table_of",
    "with_ss",
    "write_run",
    "write_unit",
]

Constant = str | int | datetime

_DELTA_FILE = re.compile(r"part-\d{5}-[0-9a-f-]{36}[.-]c\d{3}\.")  # as Spark's are, too, since Delta 4


@dataclass(frozen=True)
class Commit:
    """A commit of a unit, as the sink itself tells it.

    `version` is that of a Delta table, and None where a sink has none. In a commit that is to be made it is the version
    at which the unit was lost, or -1.
    """

    version: int | None
    unit_seq: int
    unit_id: str
    attempt: int


@dataclass(frozen=True)
class Committed:
    """What the committed rows of a unit say."""

    ok_rows: int
    bad_rows: int
    task_attempt_ids: frozenset[int]
    files: tuple[tuple[str, int], ...]


def table_of(sink: Any) -> DeltaTable:
    """Give the Delta table that a sink names."""
    return DeltaTable(sink.location or "", sink.table or "")


def app_id(run_id: str) -> str:
    """The run's Delta application id; its transaction versions are the units' positions."""
    return f"sparkscore/{run_id}"


def publish_app_id(run_id: str) -> str:
    """The Delta application id of the one commit that publishes a run; its version is 0."""
    return f"{app_id(run_id)}/publish"


def with_ss(scored: DataFrame, constants: Mapping[str, Constant]) -> DataFrame:
    """Build the `_ss` struct, first in the schema so that Delta's statistics cover it.

    Constants are added here, in the JVM, because each cell out of a worker costs about 95 ns.
    """
    ss = ss_sql(scored.columns, [c.name for c in ERR], constants)
    return scored.selectExpr(f"{ss} AS _ss", "*").drop(ERR_COL, TASK_COL, POINTER_COL)


def ss_sql(columns: Sequence[str], errors: Sequence[str], constants: Mapping[str, Constant]) -> str:
    """Write the `_ss` struct in SQL, over the columns that a worker gives.

    Parameters
    ----------
    columns : sequence of str
        Of the scored frame: with `err`, and perhaps the task id and the row's address.
    errors : sequence of str
        The fields of `err` to take.
    constants : mapping
        Fields that are the same for every row.

    Notes
    -----
    The struct of a good row is one constant, so that Spark does not build it field by field for each row; only rows
    with an error, a task id or an address have a struct of their own.
    """
    of_row = {name: f"{ERR_COL}.{name}" for name in errors}
    if TASK_COL in columns:
        of_row["task_attempt_id"] = TASK_COL
    if POINTER_COL in columns:
        of_row["source_pointer"] = POINTER_COL
    fixed = {name: _literal(value) for name, value in constants.items()}
    full = _struct({"status": f"if({ERR_COL} IS NULL, 'ok', 'error')", **of_row, **fixed})
    if POINTER_COL in columns:
        return full
    good = _struct({"status": "'ok'", **dict.fromkeys(of_row, "NULL"), **fixed})
    is_good = " AND ".join(f"{name} IS NULL" for name in (ERR_COL, TASK_COL) if name in columns)
    return f"if({is_good}, {good}, {full})"


def _struct(values: Mapping[str, str]) -> str:
    """Write a struct with the fields of `_ss` that have a value, in the table's order."""
    return f"struct({', '.join(f'CAST({values[c.name]} AS {c.type}) AS {c.name}' for c in SS if c.name in values)})"


def write_unit(frame: DataFrame, sink: Any, commit: Commit, run_id: str, plan_sha256: str) -> None:
    """Append a unit's rows in one commit that also carries its progress.

    Delta skips the write silently when the unit is already committed; the caller proves which of the two it was. A
    unit whose commit was lost under later ones is below the run's transaction, so it has one of its own, by the version
    that was lost: of two drivers that make it again, Delta still takes one.
    """
    lost = commit.version is not None and commit.version >= 0
    metadata = {
        "run_id": run_id,
        "unit_seq": commit.unit_seq,
        "unit_id": commit.unit_id,
        "attempt": commit.attempt,
        "plan_sha256": plan_sha256,
    }
    options = {
        **sink.options,
        "txnAppId": f"{app_id(run_id)}/again/{commit.unit_seq}" if lost else app_id(run_id),
        "txnVersion": str(commit.version if lost else commit.unit_seq),
        "userMetadata": json.dumps(metadata),
    }
    table_of(sink).write(frame, options, sink)


def write_run(frame: DataFrame, sink: Any, run_id: str, attempt: int, plan_sha256: str) -> None:
    """Write a whole run's rows in one commit, beside what is there or in its place; a second time Delta skips it."""
    metadata = {"run_id": run_id, "publish": True, "attempt": attempt, "plan_sha256": plan_sha256}
    transaction = {"txnAppId": publish_app_id(run_id), "txnVersion": "0", "userMetadata": json.dumps(metadata)}
    table_of(sink).write(frame, {**sink.options, **transaction}, sink)


def published_at(spark: SparkSession, table: DeltaTable, run_id: str) -> int | None:
    """Give the version that published a run, as the table's history has it; None when none did."""
    for row in history(spark, table.sql):
        found = _metadata(row.userMetadata)
        if found.get("run_id") == run_id and found.get("publish"):
            return int(row.version)
    return None


def commits_of(spark: SparkSession, table: DeltaTable, run_id: str, limit: int | None = None) -> list[Commit]:
    """List the commits of a run among the newest `limit` commits of the sink (all by default), by unit."""
    entries = (_of_run(run_id, row.version, row.userMetadata) for row in history(spark, table.sql, limit))
    return sorted((c for c in entries if c is not None), key=lambda c: (c.unit_seq, c.version or 0))


def own_commit(spark: SparkSession, table: DeltaTable, run_id: str) -> Commit | None:
    """Give the commit of a run that this session made last, as the sink's log holds it now.

    None when the session's last commit was another's, or when its entry in the log is not where the open protocol has
    it, or the table's place is the catalog's affair; `commits_of` tells then. It costs a small file, where a history
    costs two Spark jobs.
    """
    version = _last_version(spark)
    if version is None or not table.location:
        return None
    return _of_run(run_id, version, commit_info(table.location, version).get("userMetadata"))


def _of_run(run_id: str, version: int, user_metadata: str | None) -> Commit | None:
    metadata = _metadata(user_metadata)
    if metadata.get("run_id") != run_id or "unit_seq" not in metadata:
        return None
    return Commit(version, metadata["unit_seq"], metadata["unit_id"], metadata["attempt"])


def count_units(spark: SparkSession, table: DeltaTable, run_id: str, unit_ids: Sequence[str]) -> dict[str, Committed]:
    """Count units' committed rows by status; statistics on `_ss` keep the read to the units' own files.

    Units are named by their ids, not their numbers: Spark compiles a number into the query's code, and would compile
    anew for each unit. A unit without rows counts none.
    """
    from pyspark.sql import functions as F

    rows = table.read(spark)
    metadata = rows.metadataColumn("_metadata")
    ours = rows.where((F.col("_ss.run_id") == run_id) & F.col("_ss.unit_id").isin(list(unit_ids)))
    written = F.collect_set(F.struct(metadata.getField("file_path"), metadata.getField("file_size")))
    return _counted(ours, unit_ids, written)


def count_statuses(rows: DataFrame, unit_ids: Sequence[str]) -> dict[str, Committed]:
    """Count rows of units by status, where their files are known without a look at the rows."""
    from pyspark.sql import functions as F

    return _counted(rows, unit_ids, F.array())


def _counted(rows: DataFrame, unit_ids: Sequence[str], written: Column) -> dict[str, Committed]:
    from pyspark.sql import functions as F

    counted = (
        rows.groupBy(F.col("_ss.unit_id").alias("unit_id"))
        .agg(
            F.expr("count_if(_ss.status = 'ok')").alias("ok"),
            F.expr("count_if(_ss.status = 'error')").alias("bad"),
            F.collect_set("_ss.task_attempt_id").alias("tasks"),
            written.alias("files"),
        )
        .collect()
    )
    found = {
        row.unit_id: Committed(row.ok, row.bad, frozenset(row.tasks), tuple(sorted((f[0], f[1]) for f in row.files)))
        for row in counted
    }
    return {unit_id: found.get(unit_id, Committed(0, 0, frozenset(), ())) for unit_id in unit_ids}


def count_rows(spark: SparkSession, table: DeltaTable, run_id: str, version: int | None = None) -> dict[int, int]:
    """Count the rows that the sink holds of a run, now or at a version, by unit; reads one column of its own files."""
    from pyspark.sql import functions as F

    ours = table.read(spark, version).where(F.col("_ss.run_id") == run_id)
    return {
        row.unit: row.rows
        for row in ours.groupBy(F.col("_ss.unit_seq").alias("unit")).agg(F.count("*").alias("rows")).collect()
    }


def check_sink(spark: SparkSession, table: DeltaTable, expected: pa.Schema, partition_by: Sequence[str] = ()) -> None:
    """Refuse a sink that cannot take the run's rows, or whose transactions expire, before anything is scored.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK` when a column is missing there or has another type, or the table is partitioned otherwise.
    ClusterError
        `SPS-ENV-SINK` when the table forgets transactions, or files that no commit names yet, too soon.
    """
    if not history(spark, table.sql, limit=1):
        if table.name:
            _refuse_other_table(spark, table)
        else:
            _refuse_other_files(table.location)
        return
    assert_same_columns({f.name.lower(): f.type for f in arrow_schema(table.read(spark).schema)}, expected, str(table))
    detail = spark.sql(f"DESCRIBE DETAIL {table.sql}").select("properties", "partitionColumns").collect()
    found = list(detail[0].partitionColumns)
    if partition_by and [n.lower() for n in partition_by] != [n.lower() for n in found]:
        raise error(
            "SPS-SPEC-SINK",
            f"Expected the sink {table} to be partitioned by {', '.join(partition_by)}. Got a table that is "
            f"{'partitioned by ' + ', '.join(found) if found else 'not partitioned'}.",
            "Take sink.partition_by out: a table that is there keeps its own; or give sink.location a new table.",
            where="sink.partition_by",
        )
    _refuse_short_memory(table, detail[0].properties or {})


def _refuse_short_memory(table: DeltaTable, properties: Mapping[str, str]) -> None:
    """Exactly-once writes rest on transactions; and a VACUUM removes files of a unit that is not committed yet."""
    if "delta.setTransactionRetentionDuration" in properties:
        raise error(
            "SPS-ENV-SINK",
            f"Expected a sink that keeps its transactions. Got {table} with delta.setTransactionRetentionDuration.",
            "Unset that property of the table, or give another sink.location.",
        )
    kept = properties.get(FILE_RETENTION)
    if kept is not None and retention_hours(kept) < LEAST_FILE_RETENTION_H:
        raise error(
            "SPS-ENV-SINK",
            f"Expected a sink that keeps files without a commit for {LEAST_FILE_RETENTION_H} hours. Got {table} with "
            f"{FILE_RETENTION} = {kept}: a VACUUM would remove those of a unit that is being written.",
            f"Set {FILE_RETENTION} to 'interval 1 week', or give another sink.location.",
        )


def assert_same_columns(there: Mapping[str, pa.DataType], expected: pa.Schema, sink: str) -> None:
    """Refuse a sink without a column of the run, or with another type of it.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`.
    """
    for column in expected:
        found = there.get(column.name.lower())
        if found is None or not _same_type(found, column.type):
            raise error(
                "SPS-SPEC-SINK",
                f"Expected the sink {sink} to have the column {column.name}: {_short(column.type)}. "
                f"Got {'no such column' if found is None else _short(found)}; it has {', '.join(there)}.",
                "Give sink.location a new table, or name the outputs and kept columns as the table has them.",
            )


def _refuse_other_table(spark: SparkSession, table: DeltaTable) -> None:
    """Refuse a name of the catalog that stands for a view or for another format, and a database that is not there."""
    if spark.catalog.tableExists(table.name):
        raise error(
            "SPS-SPEC-SINK",
            f"Expected a Delta table or a new name at {table}. Got a view, or a table of another format.",
            "Give sink.table another name.",
            where="sink.table",
        )
    *above, _ = table.name.split(".")
    if above and not spark.catalog.databaseExists(".".join(above)):
        raise error(
            "SPS-SPEC-SINK",
            f"Expected a schema {'.'.join(above)} for the table {table}. Got none.",
            f"Make it: CREATE SCHEMA {'.'.join(above)}.",
            where="sink.table",
        )


def _refuse_other_files(location: str) -> None:
    """Refuse a folder of another's files, in which Delta would make a table beside them without a word.

    Data files of a run that died before the table's first commit are no hindrance.
    """
    for file in files.list_files(location):
        *folders, name = file.uri.removeprefix(location).strip("/").split("/")
        hidden = any(part.startswith(("_", ".")) for part in (*folders, name))
        if not hidden and not (_DELTA_FILE.match(name) and _is_of_a_run(file.uri)):
            raise error(
                "SPS-SPEC-SINK",
                f"Expected a Delta table or a new place at {location}. Got a folder of other files, such as {name}.",
                "Give sink.location a place of its own.",
            )


def _is_of_a_run(uri: str) -> bool:
    """Tell whether a Parquet file holds scored rows; one that is cut off was being written when its writer died."""
    import pyarrow.parquet as pq

    handle, path = files.filesystem(uri)
    try:
        with handle.open_input_file(path) as source:
            return "_ss" in pq.read_schema(source).names
    except pa.ArrowInvalid:
        return True


def discard(spark: SparkSession, table: DeltaTable, run_id: str, transaction: tuple[str, int]) -> bool:
    """Delete a run's rows from the sink in one commit; False when there is no table.

    The run's last transaction (application id and version) is shut first.

    Delta's commands take no named parameters (Spark 4.2: UNBOUND_SQL_PARAMETER); a run id holds no quote.
    """
    if not history(spark, table.sql, limit=1):
        return False
    shut_out(spark, table, transaction)
    spark.sql(f"DELETE FROM {table.sql} WHERE _ss.run_id = '{run_id}'")
    return True


def shut_out(spark: SparkSession, table: DeltaTable, transaction: tuple[str, int]) -> None:
    """Append no row under a transaction (application id and version): Delta then skips or refuses what a driver that
    was taken for dead still commits under it, or under an earlier one of the application.
    """
    table.write(table.read(spark).limit(0), _under(transaction))


def append_once(spark: SparkSession, table: DeltaTable, rows: DataFrame, transaction: tuple[str, int]) -> bool:
    """Append rows under a transaction, to a table by its location; tell whether they are certain to be in by this call.

    They are not where Delta skipped them, because the transaction was there already.
    """
    token = uuid.uuid4().hex
    table.write(rows, {**_under(transaction), "userMetadata": token})
    version = _last_version(spark)
    return version is not None and commit_info(table.location, version).get("userMetadata") == token


def _under(transaction: tuple[str, int]) -> dict[str, str]:
    return {"txnAppId": transaction[0], "txnVersion": str(transaction[1])}


def _last_version(spark: SparkSession) -> int | None:
    """The version that this session's last commit made, in whatever table."""
    version = spark.conf.get("spark.databricks.delta.lastCommitVersionInSession", None)
    return int(version) if version else None


def unit_constants(run_id: str, unit: Any, model: Any, provider: str, started_at: datetime) -> dict[str, Constant]:
    """Give the fields of `_ss` that are the same for every row of a unit."""
    return {
        "run_id": run_id,
        "unit_seq": unit.seq,
        "unit_id": unit.unit_id,
        "model_version": model.version,
        "model_sha256": model.sha256,
        "provider": provider,
        "scored_at": started_at,
    }


def _literal(value: Constant) -> str:
    """Write a constant in SQL; a text by its bytes, so that nothing in it needs a quote."""
    if isinstance(value, datetime):
        return f"timestamp_micros({round(value.timestamp() * 1_000_000)})"
    return str(value) if isinstance(value, int) else f"CAST(X'{value.encode().hex()}' AS STRING)"


def _metadata(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:  # another writer's own text
        return {}
    return found if isinstance(found, dict) else {}


def _same_type(a: pa.DataType, b: pa.DataType) -> bool:
    """Compare types by name and shape; nullability is the table's own affair."""
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        fields = {f.name.lower(): f.type for f in a}
        return all(f.name.lower() in fields and _same_type(fields[f.name.lower()], f.type) for f in b)
    if pa.types.is_list(a) and pa.types.is_list(b):
        return _same_type(a.value_type, b.value_type)
    if pa.types.is_timestamp(a) and pa.types.is_timestamp(b):
        return (a.tz is None) == (b.tz is None)
    return bool(a == b)


def _short(data_type: pa.DataType) -> str:
    return str(data_type)[:120]
