"""A `source` of the pipeline file, pinned: which files at which version, and a frame over any part of them.

One call pins the input (`pin_source`), one job looks at its files (`sparkscore.spark.survey`), and `read_files` reads
a unit's files with their addresses. No call collects rows. What has no files is opened as a frame (`Rows`), and
`pin_copy` pins the files that it was copied to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import reduce
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sparkscore.errors import error
from sparkscore.runtime import files
from sparkscore.spark.addressed import OpenRows, only_rows
from sparkscore.spark.catalog import CatalogTable, look_up
from sparkscore.spark.delta_log import newest_version, plain_refusal, version_at
from sparkscore.spark.failures import from_spark, mapped
from sparkscore.spark.rows import Rows, assert_types
from sparkscore.spark.schemas import selected, struct_of
from sparkscore.spec.scoring import BLOCK_COL, CORRUPT_COL, FILE_COL, HELPER_COLS, ROW_COL
from sparkscore.spec.source import checked_options

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = [
    "Snapshot",
    "escaped",
    "partition_names",
    "pin_copy",
    "pin_source",
    "read_files",
    "restore_snapshot",
]

_MAY_BE_MALFORMED = ("csv", "json")  # read with a column of ours for the lines that are
_WITH_ROW_INDEX = ("parquet", "delta")  # of the others Spark tells where a row's part of the file starts
# Parquet pages carry CRCs that readers do not check unless asked: 29 of 60 single-bit flips changed the answer.
_PARQUET_OPTIONS = {"parquet.page.verify-checksum.enabled": "true"}
# Without them a reader follows the session's settings of these names, under which bad files lose their rows silently.
_WHOLE_FILES = {"ignoreCorruptFiles": "false", "ignoreMissingFiles": "false"}


@dataclass(frozen=True)
class Snapshot:
    """A pinned source.

    `schema` is the frame's schema as Spark JSON, without helper columns. `route` says how a unit's files are read:
    ``files`` (by path, for files of every format and plain Delta) or ``delta`` (the pinned table filtered by file
    path, for tables whose files do not hold the whole truth; `reason` names why). ``rows`` is not pinned yet: `rows`
    has no files, and a run copies it first. `copy` then says what was copied, and when; `table` names a catalog's.
    `in_blocks`: rows have no index, which Delta's reader gives where it may meet deletion vectors only.
    """

    format: str
    locations: tuple[str, ...]
    schema: str
    options: tuple[tuple[str, str], ...]
    version: int | None = None
    route: str = "files"
    reason: str = ""
    table: str = ""
    copy: dict[str, Any] | None = None
    rows: Rows | None = None
    in_blocks: bool = False
    only: OpenRows | None = None  # of a replay: the rows that it scores again

    def to_json(self) -> dict[str, Any]:
        """The snapshot as the plan keeps it, without what it does not need."""
        facts = {**self.__dict__, "locations": list(self.locations), "options": dict(self.options)}
        facts["only"] = self.only and asdict(self.only)
        return {k: v for k, v in facts.items() if v or k not in ("table", "copy", "rows", "only", "in_blocks")}

    @property
    def name(self) -> str:
        """Name the source for a person."""
        place = f"{self.format} {', '.join(self.locations)}"
        if self.copy:
            return str(self.copy["of"]["name"])
        return self.rows.name if self.rows else f"table {self.table}, {place}" if self.table else place

    @property
    def has_row_index(self) -> bool:
        """Whether a row's address is its index in its file; else it is the place of a block and an index in that."""
        return self.format in _WITH_ROW_INDEX and not self.in_blocks

    @property
    def struct(self) -> StructType:
        """The schema as a Spark type."""
        from pyspark.sql.types import StructType

        return StructType.fromJson(json.loads(self.schema))


def restore_snapshot(data: dict[str, Any]) -> Snapshot:
    """Take a snapshot back from a plan."""
    lists = {"locations": tuple(data["locations"]), "options": tuple(sorted(data["options"].items()))}
    only = OpenRows(**data["only"]) if data.get("only") else None
    return Snapshot(**{**data, **lists, "only": only})


def pin_source(spark: SparkSession, source: Any) -> tuple[Snapshot, list[str]]:
    """Pin a source to a version or a listing.

    Parameters
    ----------
    spark : SparkSession
    source : sparkscore.spec.pipeline.Source

    Returns
    -------
    tuple of (Snapshot, list of str)
        The snapshot, and the URIs of its files, not URL-encoded.

    Raises
    ------
    ClusterError
        `SPS-ENV-SOURCE` when a location does not exist or holds the debris of a dead writer.
    """
    with mapped(spark, location=", ".join(source.location or ())):
        if source.table is not None:
            return _pin_table(spark, source)
        if source.format == "delta":
            return _pin_delta(spark, _single(source), source)
        if source.has_files:
            schema = struct_of(source.schema_) if source.schema_ is not None else None
            return _pin_files(spark, source.format, source.location, schema, source.options)
    options, references = tuple(source.options.items()), tuple(source.credentials.items())
    reason = f"{source.format} has no files that are read where they are"
    places = source.location or ()
    rows = Rows(reason, source.format, "", places, source.schema_ or "", options, references)
    return _pin_rows(spark, rows), []


def pin_copy(
    spark: SparkSession, snapshot: Snapshot, folder: str, schema: StructType, at: str
) -> tuple[Snapshot, list[str]]:
    """Pin the files that the rows of a snapshot were copied to, in place of the rows."""
    from pyspark.sql.types import StructField, StructType

    assert snapshot.rows is not None, "files are not copied"
    plain = StructType([StructField(f.name, f.dataType) for f in schema.fields])  # without what a database noted
    paths = [unquote(p) for p in spark.read.schema(plain).parquet(folder).inputFiles()]
    copy = {"of": snapshot.rows.to_json(), "at": at}
    return Snapshot("parquet", (folder,), plain.json(), (), table=snapshot.table, copy=copy), paths


def read_files(spark: SparkSession, snapshot: Snapshot, paths: Sequence[str] | None = None) -> DataFrame:
    """Read files of the snapshot, all of them by default, with the helper columns that address each row.

    Rows that are not copied yet have no addresses.
    """
    if snapshot.rows is not None:
        return snapshot.rows.frame(spark)
    frame = _read(spark, snapshot, paths)
    return frame if snapshot.only is None else only_rows(spark, frame, snapshot.only)


def _read(spark: SparkSession, snapshot: Snapshot, paths: Sequence[str] | None) -> DataFrame:
    if snapshot.route == "delta":
        _refuse_lossy_session(spark)
        frame = _delta(spark, snapshot.locations[0], snapshot.version)
        if paths is not None:
            frame = frame.where(frame.metadataColumn("_metadata").getField("file_path").isin(list(paths)))
        return _with_addresses(frame, snapshot)
    if paths is None:
        return _with_addresses(_reader(spark, snapshot).load(list(snapshot.locations)), snapshot)
    by_base: dict[str, list[str]] = {}
    for path in paths:
        by_base.setdefault(_base_of(path, snapshot.locations), []).append(escaped(path))
    frames = [_with_addresses(_load(spark, snapshot, base, group), snapshot) for base, group in by_base.items()]
    return reduce(lambda a, b: a.unionByName(b), frames)


def _load(spark: SparkSession, snapshot: Snapshot, base: str, planned: list[str]) -> DataFrame:
    """Read planned files; one that Spark does not find was there at the plan."""
    from pyspark.errors import AnalysisException

    try:
        found: DataFrame = _reader(spark, snapshot).option("basePath", base).load(planned)
    except AnalysisException as cause:
        if "PATH_NOT_FOUND" not in str(cause):
            raise
        raise error(
            "SPS-DATA-GONE",
            f"Expected the input files as planned. Got: {from_spark(cause).context.get('file', base)} is gone.",
            "Restore the file, or start a new run id over the data as it is now.",
        ) from cause
    return found


def _with_addresses(frame: DataFrame, snapshot: Snapshot) -> DataFrame:
    metadata = frame.metadataColumn("_metadata")
    second = (
        metadata.getField("row_index").alias(ROW_COL)
        if snapshot.has_row_index
        else metadata.getField("file_block_start").alias(BLOCK_COL)
    )
    addressed = frame.select("*", metadata.getField("file_path").alias(FILE_COL), second)
    helpers = [h for h in HELPER_COLS if h in addressed.columns]
    return addressed.selectExpr(*(selected((f.name,)) for f in snapshot.struct.fields), *helpers)


def _pin_table(spark: SparkSession, source: Any) -> tuple[Snapshot, list[str]]:
    table = look_up(spark, source.table)
    if source.format is not None and source.format != table.format:
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected {source.table} to be a table of format {source.format}. Got {table.format or table.reason}.",
            "Take `format` out: the catalog knows it.",
            at="source.format",
        )
    if table.format == "delta":
        snapshot, paths = _pin_delta(spark, table.location, source)
        return replace(snapshot, table=source.table), paths
    if source.version is not None or source.timestamp is not None:
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected version and timestamp only for a Delta table. Got {source.table}: "
            f"{table.reason or table.format}.",
            "Take them out.",
            at="source.table",
        )
    reason = table.reason
    if not reason:
        _assert_options(source.table, table.options)
        snapshot, paths = _pin_files(spark, table.format, (table.location,), table.schema, table.options)
        if _holds_all(table, paths):
            return replace(snapshot, table=source.table), paths
        reason = "the catalog places its partitions otherwise than as folders below its location"
        if table.format in _MAY_BE_MALFORMED:
            raise _malformed_unseen(source.table, table.format)
    return _pin_rows(spark, Rows(reason, table=source.table)), []


def _holds_all(table: CatalogTable, paths: Sequence[str]) -> bool:
    """Whether a listing of the location is what the catalog reads: the same files, in folders of its partitions."""
    if {_comparable(p) for p in paths} != {_comparable(p) for p in table.files}:
        return False
    base = len(_comparable(table.location).rstrip("/")) + 1
    folders = {_comparable(p)[base:].rpartition("/")[0] for p in paths}
    return folders <= (table.partitions or {""})


def _pin_rows(spark: SparkSession, rows: Rows) -> Snapshot:
    schema = rows.frame(spark).schema
    assert_types(schema, rows.name)
    return Snapshot(rows.format, (), schema.json(), (), route="rows", reason=rows.reason, table=rows.table, rows=rows)


def _pin_delta(spark: SparkSession, root: str, source: Any) -> tuple[Snapshot, list[str]]:
    newest = newest_version(spark, root)
    if newest is None:
        raise _no_source(root, "no Delta table")
    version = newest if source.version is None else source.version
    if version > newest:
        raise _no_source(root, f"version {newest} as its newest, not {version}")
    if source.timestamp is not None:
        version = version_at(spark, root, source.timestamp)
    frame = _delta(spark, root, version)
    paths = frame.inputFiles()  # literal names: Delta's are not URL-encoded
    reason = plain_refusal(spark, root, version, newest, paths)
    snapshot = Snapshot(
        format="delta",
        locations=(root,),
        schema=frame.schema.json(),
        options=tuple(sorted(source.options.items())),
        version=version,
        route="delta" if reason else "files",
        reason=reason,
        in_blocks=bool(reason) and not _has_row_index(frame),
    )
    return snapshot, paths


def _has_row_index(frame: DataFrame) -> bool:
    return "row_index" in frame.select(frame.metadataColumn("_metadata").alias("of")).select("of.*").columns


def _pin_files(
    spark: SparkSession, form: str, locations: Sequence[str], given: StructType | None, options: Mapping[str, str]
) -> tuple[Snapshot, list[str]]:
    for location in locations:
        _refuse_folder(form, location)
    options = _reader_options(form, options)
    reader = spark.read.format(form).options(**options, **_WHOLE_FILES)
    if given is not None:
        reader = reader.schema(given)
    frame = reader.load(list(locations))
    paths = [unquote(p) for p in frame.inputFiles()]
    schema = _strings_for_partitions(frame.schema, given, partition_names(locations, paths))
    return Snapshot(form, tuple(locations), schema.json(), tuple(sorted(options.items()))), paths


def _reader(spark: SparkSession, snapshot: Snapshot) -> Any:
    from pyspark.sql.types import StringType, StructType

    schema = StructType(list(snapshot.struct.fields))
    reader = spark.read.format("parquet" if snapshot.format == "delta" else snapshot.format)
    if snapshot.format in _MAY_BE_MALFORMED:
        schema.add(CORRUPT_COL, StringType())
        reader = reader.option("columnNameOfCorruptRecord", CORRUPT_COL).option("mode", "PERMISSIVE")
    elif snapshot.format in _WITH_ROW_INDEX:
        reader = reader.options(**_PARQUET_OPTIONS)
    return reader.schema(schema).options(**dict(snapshot.options), **_WHOLE_FILES)


def _reader_options(form: str, given: Mapping[str, str]) -> dict[str, str]:
    options = dict(given)
    if form == "csv":
        # Pruned columns are not parsed, so a line that is malformed in one of them would pass as good.
        options["columnPruning"] = "false"
        if str(options.get("header", "false")).lower() == "true":
            # Spark's default takes a header's columns by position: a file with two columns swapped is read wrong.
            options.setdefault("enforceSchema", "false")
    return options


def _strings_for_partitions(schema: StructType, given: StructType | None, partitions: set[str]) -> StructType:
    """Partition columns are strings unless the user's schema gives them a type: `007` stays `007`."""
    from pyspark.sql.types import StringType, StructField, StructType

    declared = {n.lower() for n in given.names} if given is not None else set()
    free = {p for p in partitions if p.lower() not in declared}
    return StructType([StructField(f.name, StringType() if f.name in free else f.dataType) for f in schema.fields])


def partition_names(locations: Sequence[str], paths: Sequence[str]) -> set[str]:
    """Name the columns whose values are in the names of folders, as the folders have them."""
    names: set[str] = set()
    for path in paths:
        below = path[len(_base_of(path, locations)) :].split("/")[:-1]
        names.update(part.split("=", 1)[0] for part in below if "=" in part)
    return names


def _base_of(path: str, locations: Sequence[str]) -> str:
    """Give the folder below which a file's folders are partition values: the source's location that it lies in.

    Without it, Spark takes a file that is named alone for unpartitioned, and the partition columns would be null.
    """
    parts = path.split("/")
    for location in locations:
        local = files.local_path(location)
        pattern = (local.absolute().as_uri() if local is not None else location).rstrip("/")
        depth = _comparable(pattern).count("/") + 1
        base = "/".join(parts[: depth + path.count("/") - _comparable(path).count("/")])
        if base != path and fnmatchcase(_comparable(base), unquote(_comparable(pattern))):
            return base
    return "/".join(parts[:-1])


def _comparable(uri: str) -> str:
    """`file:/x` and `file:///x` name the same path."""
    return "/" + uri.removeprefix("file:").lstrip("/") if uri.startswith("file:") else uri


def escaped(path: str) -> str:
    """Spark reads `{}[]*?` in a path as a pattern; a file's own name is meant literally."""
    return re.sub(r"([{}\[\]*?\\])", r"\\\1", path)


def _delta(spark: SparkSession, root: str, version: int | None) -> DataFrame:
    return spark.read.format("delta").option("versionAsOf", str(version)).load(root)


def _refuse_lossy_session(spark: SparkSession) -> None:
    """Delta's own reader follows the session's settings alone."""
    for name in (f"spark.sql.files.{option}" for option in _WHOLE_FILES):
        if str(spark.conf.get(name, "false")).lower() == "true":
            raise error(
                "SPS-SPEC-VALUE",
                f"Expected {name} to be false for this Delta table, which only Delta's reader can read. Got true, "
                "under which a bad file would lose its rows without a word.",
                f'Set it for the run: spark.conf.set("{name}", "false").',
                where=name,
            )


def _single(source: Any) -> str:
    if len(source.location) == 1:
        return str(source.location[0])
    raise error(
        "SPS-SPEC-VALUE",
        f"Expected one location of a Delta table. Got {len(source.location)}.",
        "Score each table in a run of its own, or point `location` at one.",
        where="source.location",
    )


def _refuse_folder(form: str, location: str) -> None:
    """Refuse what a dead writer left, and a Delta table that is read as files: rows it deleted are still in them."""
    debris, log = (f"{location.rstrip('/')}/{name}" for name in ("_temporary", "_delta_log"))
    found = files.stat([debris, log])
    if found[1] is not None:
        raise error(
            "SPS-ENV-SOURCE",
            f"Expected {form} files at {location}. Got a Delta table, whose files hold deleted rows too.",
            "Write source.format: delta; for one version of it, source.version.",
        )
    if found[0] is not None:
        raise error(
            "SPS-ENV-SOURCE",
            f"Expected a finished dataset at {location}. Got {debris}, which a writer that died left behind.",
            "Find out whether that write is still running; if not, remove the folder or write the dataset again.",
        )


def _assert_options(table: str, options: Mapping[str, str]) -> None:
    """Hold the options that a table was made with against what is refused in a pipeline file."""
    from pydantic_core import PydanticCustomError

    try:
        checked_options(dict(options))
    except PydanticCustomError as cause:
        told = cause.context or {}
        fix = "Make a table without it, or read its files: `format`, `location`, `schema`, `options`."
        raise error(
            "SPS-SPEC-VALUE", f"{told.get('message')}. Got it in table {table}.", fix, at="source.table"
        ) from None


def _malformed_unseen(table: str, form: str) -> Exception:
    return error(
        "SPS-SPEC-VALUE",
        f"Expected all partitions of the {form} table {table} to be folders below its location. Got others, which only "
        "the catalog reads, and it would give malformed lines as rows of nulls.",
        f"Write `format: {form}` with the partitions' folders as `location`, `schema` and `options`.",
        at="source.table",
    )


def _no_source(location: str, got: str) -> Exception:
    return error("SPS-ENV-SOURCE", f"Expected data at {location}. Got {got}.", "Check source.location.")
