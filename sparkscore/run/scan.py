"""How a run reads its source: Spark scans it (`map_in_arrow`), or the workers do it themselves (`fused`); and why.

A worker that reads a file itself must give the rows and values that Spark would. Each rule here has a reason, which the
ledger, the summary and `check` repeat: `docs/running.md` lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sparkscore.errors import error
from sparkscore.ledger.plans import FileList, InputFile, Plan, Unit
from sparkscore.run.frames import needed_columns, plan_names, prepared
from sparkscore.runtime import files
from sparkscore.runtime.arrow import texts
from sparkscore.runtime.slices import Scan, Slice, cut, folder_values, spark_uri
from sparkscore.spark.delta_log import PARTITION_VALUES
from sparkscore.spark.schemas import arrow_schema, fields, paths, quoted
from sparkscore.spark.sources import Snapshot, partition_names, read_files
from sparkscore.spec.columns import resolve
from sparkscore.spec.expressions import render
from sparkscore.spec.filters import BeyondError, Kind, columns_of, filter_of
from sparkscore.spec.scoring import FILE_COL, ScoringPlan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

    from sparkscore.run.planning import Bound

__all__ = ["REMEDIES", "Choice", "TaskSizes", "advice", "choose", "cores_of", "cut_tasks", "task_sizes"]

# Of the cost model (CPU ns a row): 30 columns cost Spark's way some 3,400, and the fused one 600.
_CELL_BY_SPARK_NS = 103.0
_CELL_FUSED_NS = 6.0
_CELL_OUT_NS = 95.0
_FUSED_NS = 120.0
_CELLS_OF_A_LIST = 20  # a list, text or bytes, for as many numbers: a guess on the low side
_LEAST_GAIN = 1.15

_SCALARS = ("boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "string", "binary", "date")
_INSTANTS = ("timestamp", "timestamp_ntz")
_PARTITIONS = ("string", "int", "date", "boolean")
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("tinyint", "smallint", "int", "bigint"), "int"),
    **dict.fromkeys(("float", "double"), "float"),
    "string": "string",
    "date": "date",
    "boolean": "bool",
}
_COMPARED_FILES = 20
_ESCAPED_BYTE = re.compile(r"%[89A-Fa-f][0-9A-Fa-f]")
REMEDIES = {
    "USER": "`scan: auto`",
    "SOURCE": "write the rows as Parquet or Delta; leave `options` out",
    "CATALOG_POLICY": "`source.format` and `location`, if you may read the files",
    "DELTA_FEATURE": "`REORG TABLE … APPLY (PURGE)` and, where it says so, `ALTER TABLE … DROP FEATURE`",
    "PARTITION_VALUES": "leave the column out of `keep`, or partition by one of these types",
    "TYPES": "`keep` fewer columns, or cast them when the table is written",
    "PARQUET_LEGACY": "write the files again with Spark 3 or later",
    "ENCRYPTED": "write the columns that are needed to files of their own, if you may",
    "PREPARE": "compute the columns when the table is written",
    "FILESYSTEM": "copy the files to S3 or a disk that the workers mount",
    "SESSION": "unset `spark.sql.caseSensitive`",
}
_REBASE = "spark.sql.parquet.datetimeRebaseModeInRead"


@dataclass(frozen=True)
class Choice:
    """How the source is read; `why` is a reason in capitals and its detail, empty of a fused scan."""

    scan: Scan | None
    why: str = ""

    @property
    def name(self) -> str:
        """As in the pipeline file."""
        return "fused" if self.scan is not None else "map_in_arrow"

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


class _UnfusedError(Exception):
    """A rule that a source, a plan or a session does not meet."""


def choose(spark: SparkSession, job: Bound, plan: Plan) -> Choice:
    """Choose how the planned files of a job are read.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE`: the pipeline demands a fused scan that one of the rules refuses.
    """
    asked, of_files = job.pipeline.scan, plan.header.get("unfused")
    try:
        if asked == "map_in_arrow":
            raise _UnfusedError("USER scan: map_in_arrow")
        scan = _scan_of(spark, job, plan)
        if of_files is None or of_files:
            raise _UnfusedError(of_files or "TYPES the run was planned by a version that did not look")
        gain = _gain(job.scoring, scan)
        if asked == "auto" and gain < _LEAST_GAIN:
            raise _UnfusedError(f"GAIN {gain:.2f} times, less than {_LEAST_GAIN}")
    except _UnfusedError as refusal:
        if asked == "fused":
            raise error(
                "SPS-SPEC-VALUE",
                f"Expected a source that workers can read themselves, as scan: fused demands. Got {refusal}.",
                "Write scan: auto, or mend what is named.",
                where="scan",
            ) from None
        return Choice(None, str(refusal))
    return Choice(scan)


def advice(job: Bound, choice: Choice) -> str:
    """Say what it costs, by the model, that Spark reads, and what would change it; empty where it costs nothing."""
    kinds = arrow_schema(job.snapshot.struct)
    types = [kinds.field(n).type for n in needed_columns(job.snapshot, job.pipeline, job.scoring)]
    more_ns = (_CELL_BY_SPARK_NS - _CELL_FUSED_NS) * _cells(types) - _FUSED_NS
    reason = choice.why.partition(" ")[0]
    if choice.scan is not None or job.snapshot.rows is not None or reason not in REMEDIES or more_ns <= 0:
        return ""
    return f"some {more_ns:,.0f} ns of CPU a row more than a fused scan; remedy: {REMEDIES[reason]}"


@dataclass(frozen=True)
class TaskSizes:
    """How a session cuts files into tasks (Spark's `FilePartition`): its cores and two of its settings."""

    cores: int
    opening_bytes: int
    most_bytes: int

    def part_bytes(self, planned: FileList) -> int:
        """Give the bytes of a task, with what opening its files is worth."""
        return max(1, min(self.most_bytes, max(self.opening_bytes, self._total(planned) // self.cores)))

    def tasks_of(self, unit: Unit) -> int:
        """Give the number of a unit's tasks; files whose sizes are not known are taken to keep all cores busy."""
        if not unit.files.size_bytes:
            return self.cores
        part = self.part_bytes(unit.files)
        slices = np.ceil(unit.files.table["size_bytes"].to_numpy() / part).sum()
        return int(min(slices, -(-self._total(unit.files) // part)))

    def _total(self, planned: FileList) -> int:
        return planned.size_bytes + self.opening_bytes * len(planned)


def task_sizes(spark: SparkSession, cores: int) -> TaskSizes:
    """Ask a session for its settings."""
    names = ("spark.sql.files.openCostInBytes", "spark.sql.files.maxPartitionBytes")
    return TaskSizes(cores, *(_bytes(spark, name) for name in names))


def cut_tasks(spark: SparkSession, planned: Iterable[InputFile], cores: int) -> list[list[Slice]]:
    """Cut a unit's files into slices, and deal them to tasks, as Spark does with its splits."""
    sizes, planned = task_sizes(spark, cores), FileList.of(planned)
    part, opening = sizes.part_bytes(planned), sizes.opening_bytes
    slices = [one for file in planned for one in cut(file.path, file.size_bytes, file.mtime_ms, part)]
    tasks: list[list[Slice]] = []
    held = part
    for one in sorted(slices, key=lambda s: s.start - s.stop):
        size = one.stop - one.start
        if not tasks or held + size > part:
            tasks.append([])
            held = 0
        tasks[-1].append(one)
        held += size + opening
    return tasks


def cores_of(spark: SparkSession) -> int:
    """Ask how many tasks Spark makes of a range, which is what it takes for the cores of its cluster."""
    return int(spark.range(1 << 16).selectExpr("spark_partition_id() AS task").distinct().count())


def _bytes(spark: SparkSession, name: str) -> int:
    """Read a setting of the session that is a number of bytes, as Spark writes them."""
    found = re.fullmatch(r"(\d+)\s*([kmgt]?)b?", str(spark.conf.get(name)).strip().lower())
    assert found is not None, f"{name} is a number of bytes"
    return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2]]


def _scan_of(spark: SparkSession, job: Bound, plan: Plan) -> Scan:
    """Make the scan of a job, if every rule holds that the files themselves have no say in."""
    snapshot, pipeline = job.snapshot, job.pipeline
    _assert_source(snapshot)
    _assert_session(spark, snapshot)
    columns = _columns(spark, job)
    types = {f.name: f for f in snapshot.struct.fields}
    text = None if snapshot.copy else pipeline.source.where
    where = None if text is None else _filter(text, "source.where", snapshot.struct)
    steps = [(i, step.where) for i, step in enumerate(pipeline.prepare) if step.kind == "where"]
    drops = [(i, _filter(text, f"prepare[{i}].where", snapshot.struct)) for i, text in steps]
    filters = [*([where] if where else []), *(one for _, one in drops)]
    read = dict.fromkeys([*columns.values(), *sorted(set().union(*map(columns_of, filters)))])
    instants = [name for name in read if _kind(types[name]) in ("date", *_INSTANTS)]
    if instants and str(spark.conf.get(_REBASE, "CORRECTED")).upper() != "CORRECTED":
        raise _UnfusedError(f"PARQUET_LEGACY {instants[0]} is read by the session's {_REBASE}")
    folders = plan.folders()
    in_folders = {name.lower() for name in partition_names(snapshot.locations, folders)}
    partitions = tuple(name for name in read if name.lower() in in_folders)
    for name in read:
        _assert_type(types[name], name in partitions)
    schema = arrow_schema(_struct([types[name] for name in read]))
    scan = Scan(tuple(columns.items()), schema, partitions, snapshot.format == "delta", where, tuple(drops))
    _assert_folders(schema, folders, partitions)
    _assert_addresses(spark, snapshot, plan.some_paths(_COMPARED_FILES), partitions)
    return scan


def _struct(chosen: list[Any]) -> StructType:
    from pyspark.sql.types import StructType

    return StructType(chosen)


def _assert_source(snapshot: Snapshot) -> None:
    if snapshot.table and not snapshot.copy:
        raise _UnfusedError(f"CATALOG_POLICY {snapshot.table} may have row filters, masks or credentials of its own")
    if snapshot.rows is not None or snapshot.only is not None or snapshot.format not in ("parquet", "delta"):
        raise _UnfusedError(f"SOURCE {'a replay' if snapshot.only else snapshot.format}")
    if snapshot.route == "delta":
        of_folders = snapshot.reason.startswith(PARTITION_VALUES)
        raise _UnfusedError(f"{'PARTITION_VALUES' if of_folders else 'DELTA_FEATURE'} {snapshot.reason}")
    for place in snapshot.locations:
        if files.local_path(place) is None and not files.is_s3(place):
            raise _UnfusedError(f"FILESYSTEM {place}")


def _assert_session(spark: SparkSession, snapshot: Snapshot) -> None:
    if str(spark.conf.get("spark.sql.caseSensitive", "false")).lower() == "true":
        raise _UnfusedError("SESSION spark.sql.caseSensitive")
    if snapshot.options:
        raise _UnfusedError(f"SOURCE option {snapshot.options[0][0]}")


def _columns(spark: SparkSession, job: Bound) -> dict[str, str]:
    """Find the source's own column behind each name of the plan."""
    available = fields(job.snapshot.struct)
    for step in job.pipeline.prepare:
        if step.kind not in ("select", "drop", "where"):
            raise _UnfusedError(f"PREPARE {step.kind}")
        if step.kind == "select" and any(len(resolve(name, available)) > 1 for name in step.select):
            raise _UnfusedError("PREPARE select of a field of a struct")
    found = {}
    for name, path in paths(prepared(spark, job.snapshot, job.pipeline).schema, plan_names(job.scoring)).items():
        if len(path) > 1:
            raise _UnfusedError(f"TYPES {name} is a field of a struct")
        found[name] = path[0]
    return found


def _filter(text: str, place: str, struct: StructType) -> tuple[Any, ...]:
    kinds = {f.name: _KINDS[_kind(f)] for f in struct if _is_plain(f) and _kind(f) in _KINDS}
    try:
        return filter_of(render(text, place), kinds)
    except BeyondError as beyond:
        raise _UnfusedError(f"PREPARE {place}: {beyond}") from None


def _assert_type(field: Any, is_partition: bool) -> None:
    kind = _kind(field)
    bare = re.fullmatch(r"(?:array<)*(\w+)>*", kind)
    numeric = bare is not None and _KINDS.get(bare.group(1)) in ("int", "float")
    if is_partition and kind not in _PARTITIONS:
        raise _UnfusedError(f"PARTITION_VALUES {field.name} is {kind}")
    if not _is_plain(field) or not (kind in (*_SCALARS, *_INSTANTS) or numeric):
        raise _UnfusedError(f"TYPES {field.name} is {kind}")


def _kind(field: Any) -> str:
    return str(field.dataType.simpleString())


def _is_plain(field: Any) -> bool:
    """Whether a text is one of any length, compared by its bytes; Spark notes a char(n) beside its type."""
    return not any("CHAR_VARCHAR" in key for key in field.metadata)


def _assert_folders(schema: pa.Schema, folders: Sequence[str], partitions: Sequence[str]) -> None:
    """See that every folder's values can be read as Spark reads them.

    Of an escape beyond ASCII Spark makes one character a byte, and readers of UTF-8 another; Delta has the values in
    its log.
    """
    if not partitions:
        return
    odd = next((folder for folder in folders if _ESCAPED_BYTE.search(folder)), None)
    if odd is not None:
        raise _UnfusedError(f"PARTITION_VALUES of {odd}, with an escape beyond ASCII")
    told = [folder_values(folder, partitions) for folder in folders]
    for name in partitions:
        try:
            texts([one.get(name) for one in told]).cast(schema.field(name).type)
        except pa.ArrowInvalid as refused:
            raise _UnfusedError(f"PARTITION_VALUES of {name}: {refused}") from None


def _assert_addresses(spark: SparkSession, snapshot: Snapshot, of: Sequence[str], partitions: Sequence[str]) -> None:
    """Compare what the names of folders say with Spark's own answer, on some of the files."""
    if not partitions:
        return
    there = read_files(spark, snapshot, of).selectExpr(FILE_COL, *map(quoted, partitions)).distinct().collect()
    types = arrow_schema(snapshot.struct)
    by_uri = {spark_uri(path): path for path in of}
    for row in there:
        told = folder_values(by_uri.get(row[0], ""), partitions)
        cells = [texts([told.get(name)]).cast(types.field(name).type)[0].as_py() for name in partitions]
        if cells != list(row[1:]):
            raise _UnfusedError(f"PARTITION_VALUES of {row[0]}")


def _gain(plan: ScoringPlan, scan: Scan) -> float:
    """Predict how much less CPU a fused scan takes, of a model that costs nothing: of others it is less."""
    types = [scan.schema.field(source).type for source in {source for _, source in scan.columns}]
    cells = _cells(types)
    out = _CELL_OUT_NS * (len(plan.keep) + len(plan.outputs))
    return (_CELL_BY_SPARK_NS * cells + out) / (_CELL_FUSED_NS * cells + out + _FUSED_NS)


def _cells(types: Sequence[pa.DataType]) -> int:
    return sum(1 if pa.types.is_primitive(kind) else _CELLS_OF_A_LIST for kind in types)
