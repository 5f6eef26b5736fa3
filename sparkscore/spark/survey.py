"""A look at every input file before the plan is written: its size, its time, its rows, and the columns it lacks.

Footers of Parquet and ORC and headers of Avro are read by the executors in one job, files of lines are only listed, a
file that is a row is one, and a Delta table whose files do not hold the whole truth is asked for its live rows a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.runtime import files
from sparkscore.spark.avro import avro_header
from sparkscore.spark.footers import RESULT, Footers, Read, kind_of, orc_footer, parquet_footer
from sparkscore.spark.schemas import arrow_schema, spark_schema
from sparkscore.spark.sources import Snapshot, read_files
from sparkscore.spec.scoring import FILE_COL

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Look", "survey", "unfused"]

_FILES_PER_TASK = 64


@dataclass(frozen=True)
class Look:
    """What one file showed.

    `rows` is None for formats that cannot tell before they are read; `unfused` says why a worker might read another
    value of it than Spark.
    """

    path: str
    size_bytes: int
    mtime_ms: int
    rows: int | None
    unfused: str | None = None


def survey(spark: SparkSession, snapshot: Snapshot, paths: Sequence[str], needed: Sequence[str]) -> list[Look]:
    """Look at every file of a snapshot.

    Parameters
    ----------
    spark : SparkSession
    snapshot : Snapshot
    paths : sequence of str
        The snapshot's files, as `pin_source` gave them.
    needed : sequence of str
        Top-level columns that the run reads; partition columns, which no file holds, are left out here.

    Raises
    ------
    RecordError
        `SPS-DATA-FILE`, `SPS-DATA-GONE` or `SPS-DATA-COLUMN`, naming the first files and how many there are.
    """
    if snapshot.rows is not None:
        return []  # which says how many there are once they are copied
    if snapshot.route == "delta":
        return _live_rows(spark, snapshot)
    if snapshot.format in ("csv", "json", "text", "binaryFile"):
        rows = 1 if snapshot.format == "binaryFile" else None
        return [_listed(path, stat, rows) for path, stat in zip(paths, files.stat(paths), strict=True)]
    if not paths:
        return []
    in_folders = {part.split("=", 1)[0].lower() for p in paths for part in p.split("/")[:-1] if "=" in part}
    types = {f.name: f.type for f in arrow_schema(snapshot.struct)}
    wanted = pa.schema([(n, types[n]) for n in needed if n in types and n.lower() not in in_folders])
    columns = tuple((f.name, kind_of(f.type)) for f in wanted)
    readers: dict[str, Read] = {"orc": orc_footer, "avro": avro_header}
    read = readers.get(snapshot.format, parquet_footer)
    fused = wanted if read is parquet_footer else None
    footers = Footers(read, columns, absent_is_null=snapshot.format == "delta", fused=fused)
    tasks = max(1, -(-len(paths) // _FILES_PER_TASK))
    frame = spark.createDataFrame([(p,) for p in paths], "path string").repartition(tasks)
    found = frame.mapInArrow(footers, spark_schema(RESULT)).collect()
    _raise_worst([r for r in found if r.code is not None], len(paths))
    order = {path: i for i, path in enumerate(paths)}
    found.sort(key=lambda r: order[r.path])
    return [Look(r.path, r.size_bytes, r.mtime_ms, r.rows, r.unfused) for r in found]


def unfused(looks: Sequence[Look]) -> str:
    """Say why workers might read another value of a file than Spark, of the first such file; empty where none is."""
    return next((f"{look.unfused}: {look.path}" for look in looks if look.unfused), "")


def _listed(path: str, stat: Any, rows: int | None) -> Look:
    if stat is None:
        raise error("SPS-DATA-GONE", f"Expected {path} to be there. Got nothing.", "Restore the file.", file=path)
    return Look(path, stat.size_bytes, stat.mtime_ns // 1_000_000, rows)


def _live_rows(spark: SparkSession, snapshot: Snapshot) -> list[Look]:
    from pyspark.sql import functions as F

    rows = F.count("*").alias("rows")
    found = read_files(spark, snapshot).groupBy(FILE_COL).agg(rows).orderBy(FILE_COL).collect()
    return [Look(r[0], 0, 0, r[1]) for r in found]


def _raise_worst(bad: list[Any], total: int) -> None:
    if not bad:
        return
    first = bad[0]
    more = "" if len(bad) == 1 else f" and {len(bad) - 1} more: " + ", ".join(b.path for b in bad[1:5])
    raise error(
        first.code,
        f"Expected {total} input files that hold the needed columns. Got {first.path}: {first.problem}{more}.",
        "Restore or rewrite the named files, or point the source at the others.",
        file=first.path,
    )
