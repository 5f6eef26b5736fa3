"""A look at every input file before the plan is written: its size, its time, its rows, and the columns it lacks.

Footers of Parquet and ORC and headers of Avro are read by the executors in one job, files of lines are only listed, a
file that is a row is one, and a Delta table whose files do not hold the whole truth is asked for its live rows a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from sparkscore.errors import error
from sparkscore.ledger.input_files import FILES
from sparkscore.runtime import files
from sparkscore.spark.avro import avro_header
from sparkscore.spark.footers import RESULT, Footers, Read, kind_of, orc_footer, parquet_footer
from sparkscore.spark.schemas import arrow_schema, spark_schema
from sparkscore.spark.sources import Snapshot, read_files
from sparkscore.spec.scoring import FILE_COL

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["LOOKS", "survey", "unfused"]

LOOKS = pa.schema([*FILES, ("unfused", pa.string())])

_FILES_PER_TASK = 64  # where a look is a request of some 100 ms
_FILES_PER_TASK_ON_DISK = 1024  # and of some 0.3 ms there
_MAX_TASKS = 10_000  # of one job, which one driver keeps the books of


def survey(spark: SparkSession, snapshot: Snapshot, paths: Sequence[str], needed: Sequence[str]) -> pa.Table:
    """Look at every file of a snapshot.

    Parameters
    ----------
    spark : SparkSession
    snapshot : Snapshot
    paths : sequence of str
        The snapshot's files, as `pin_source` gave them.
    needed : sequence of str
        Top-level columns that the run reads; partition columns, which no file holds, are left out here.

    Returns
    -------
    pyarrow.Table
        Of the columns `LOOKS`, a row a file, by path. `rows` is null for formats that cannot tell before they are read;
        `unfused` says why a worker might read another value of the file than Spark.

    Raises
    ------
    RecordError
        `SPS-DATA-FILE`, `SPS-DATA-GONE` or `SPS-DATA-COLUMN`, naming the first files and how many there are.
    """
    if snapshot.rows is not None:
        return LOOKS.empty_table()  # which says how many there are once they are copied
    if snapshot.route == "delta":
        return _live_rows(spark, snapshot)
    if snapshot.format in ("csv", "json", "text", "binaryFile"):
        return _listed(paths, 1 if snapshot.format == "binaryFile" else None)
    if not paths:
        return LOOKS.empty_table()
    in_folders = {part.split("=", 1)[0].lower() for p in paths for part in p.split("/")[:-1] if "=" in part}
    types = {f.name: f.type for f in arrow_schema(snapshot.struct)}
    wanted = pa.schema([(n, types[n]) for n in needed if n in types and n.lower() not in in_folders])
    columns = tuple((f.name, kind_of(f.type)) for f in wanted)
    readers: dict[str, Read] = {"orc": orc_footer, "avro": avro_header}
    read = readers.get(snapshot.format, parquet_footer)
    fused = wanted if read is parquet_footer else None
    footers = Footers(read, columns, absent_is_null=snapshot.format == "delta", fused=fused)
    per_task = _FILES_PER_TASK if files.local_path(paths[0]) is None else _FILES_PER_TASK_ON_DISK
    tasks = min(_MAX_TASKS, -(-len(paths) // per_task))
    frame = spark.createDataFrame(pa.table({"path": pa.array(paths, pa.string())})).repartition(tasks)
    found = frame.mapInArrow(footers, spark_schema(RESULT)).toArrow().cast(RESULT)
    _raise_worst(found.filter(pc.is_valid(found["code"])), len(paths))
    return found.select(LOOKS.names).sort_by("path")


def unfused(looks: pa.Table) -> str:
    """Say why workers might read another value of a file than Spark, of the first such file; empty where none is."""
    odd = looks.filter(pc.is_valid(looks["unfused"])).slice(0, 1).to_pylist()
    return f"{odd[0]['unfused']}: {odd[0]['path']}" if odd else ""


def _listed(paths: Sequence[str], rows: int | None) -> pa.Table:
    looks = []
    for path, stat in zip(paths, files.stat(paths), strict=True):
        if stat is None:
            raise error("SPS-DATA-GONE", f"Expected {path} to be there. Got nothing.", "Restore the file.", file=path)
        looks.append((path, stat.size_bytes, stat.mtime_ns // 1_000_000, rows, None))
    return _table(looks)


def _live_rows(spark: SparkSession, snapshot: Snapshot) -> pa.Table:
    from pyspark.sql import functions as F

    rows = F.count("*").alias("rows")
    found = read_files(spark, snapshot).groupBy(FILE_COL).agg(rows).orderBy(FILE_COL).collect()
    return _table([(r[0], 0, 0, r[1], None) for r in found])


def _table(looks: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*looks, strict=True)) or [()] * len(LOOKS)
    return pa.Table.from_arrays([pa.array(list(c), f.type) for c, f in zip(columns, LOOKS, strict=True)], schema=LOOKS)


def _raise_worst(bad: pa.Table, total: int) -> None:
    if not bad.num_rows:
        return
    first, *others = bad.select(["path", "code", "problem"]).slice(0, 5).to_pylist()
    more = f" and {bad.num_rows - 1} more: " + ", ".join(b["path"] for b in others) if others else ""
    raise error(
        first["code"],
        f"Expected {total} input files that hold the needed columns. Got {first['path']}: {first['problem']}{more}.",
        "Restore or rewrite the named files, or point the source at the others.",
        file=first["path"],
    )
