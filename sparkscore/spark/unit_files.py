"""A unit's rows as files in a folder of their own: written once, looked at before they count, and read back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.runtime import files
from sparkscore.spark.flat import flat_struct, flattened, nested
from sparkscore.spark.schemas import ddl_type, quoted
from sparkscore.spark.sources import escaped
from sparkscore.spec.sink import FLAT_FORMATS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructField, StructType

__all__ = ["Layout", "UnitFile", "assert_avro", "avro_struct", "look_at", "read_rows", "write_rows"]

_TIMES = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",  # Spark's default keeps milliseconds only
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
# What makes Spark's text formats give back the rows that they were given; the sink's own options come after.
_BOTH_WAYS: Mapping[str, Mapping[str, str]] = {
    "csv": {
        **_TIMES,
        "header": "true",
        "escape": '"',  # as RFC 4180 has it: with Spark's backslash a text that ends in one eats its quote
        "ignoreLeadingWhiteSpace": "false",
        "ignoreTrailingWhiteSpace": "false",
    },
    "json": _TIMES,
}
_READING: Mapping[str, Mapping[str, str]] = {
    # By default an empty text in quotes is read as null, as an empty field is; no field holds this one.
    "csv": {"mode": "FAILFAST", "multiLine": "true", "nullValue": "\\0null\\0"},
    "json": {"mode": "FAILFAST"},
    "parquet": {"parquet.page.verify-checksum.enabled": "true"},
}
_LOOKS_AT_ONCE = 16


@dataclass(frozen=True)
class Layout:
    """How rows become files."""

    format: str
    partition_by: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class UnitFile:
    """One file of a unit: its path below the unit's folder, and its rows, None where a format has no footer."""

    path: str
    size_bytes: int
    rows: int | None


def write_rows(frame: DataFrame, folder: str, layout: Layout) -> None:
    """Write a frame with `_ss` into a folder that must not be there.

    The folder belongs to this attempt alone: Spark's committer takes over what a dead writer left in a shared one
    (SPARK-29037: 9,000 rows from 8,000).
    """
    rows = flattened(frame) if layout.format in FLAT_FORMATS else frame
    options = {**_BOTH_WAYS.get(layout.format, {}), **dict(layout.options)}
    writer = rows.write.format(layout.format).mode("error").options(**options)
    if layout.partition_by:
        writer = writer.partitionBy(*layout.partition_by)
    writer.save(folder)


def look_at(folder: str, layout: Layout, columns: Sequence[str]) -> list[UnitFile]:
    """List the files that a unit's job wrote, and read the footers of those that have one.

    Raises
    ------
    RecordError
        `SPS-DATA-FILE` for a file that is cut off, empty, or lacks a column of the unit.
    """
    found = [f for f in files.list_files(folder) if not f.uri.rsplit("/", 1)[1].startswith(("_", "."))]
    wanted = {c.lower() for c in columns} - {c.lower() for c in layout.partition_by}
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        rows = list(pool.map(lambda f: _rows_of(f.uri, layout.format, wanted), found))
    depth = len(folder.rstrip("/")) + 1
    return [UnitFile(f.uri[depth:], f.size_bytes, n) for f, n in zip(found, rows, strict=True)]


def read_rows(spark: SparkSession, by_base: Mapping[str, Sequence[str]], layout: Layout, schema: StructType) -> Any:
    """Read files back as the frame that was written; those below one base share their partition columns."""
    flat = layout.format in FLAT_FORMATS
    stored = flat_struct(schema) if flat else avro_struct(schema) if layout.format == "avro" else schema
    options = {**_BOTH_WAYS.get(layout.format, {}), **_READING.get(layout.format, {}), **dict(layout.options)}
    reader = spark.read.format(layout.format).schema(stored).options(**options)
    reader = reader.option("ignoreCorruptFiles", "false").option("ignoreMissingFiles", "false")
    frames = [reader.option("basePath", base).load([escaped(p) for p in paths]) for base, paths in by_base.items()]
    if not frames:
        return spark.createDataFrame([], schema)
    columns = [quoted(name) for name in stored.fieldNames()]  # in their order: those of partitions come last
    whole = reduce(lambda a, b: a.unionByName(b), (frame.select(*columns) for frame in frames))
    if flat:
        return nested(whole, schema)
    return whole if stored == schema else whole.selectExpr(*map(_as_written, schema, stored))


def _as_written(field: StructField, stored: StructField) -> str:
    name = quoted(field.name)
    return name if stored.dataType == field.dataType else f"CAST({name} AS {ddl_type(field.dataType)}) AS {name}"


def _rows_of(uri: str, format: str, wanted: set[str]) -> int | None:
    if format not in ("parquet", "orc"):
        return None
    handle, path = files.filesystem(uri)
    try:
        with handle.open_input_file(path) as source:
            rows, there = _footer(source, format)
    except (pa.ArrowException, OSError) as cause:
        raise _damaged(uri, str(cause).splitlines()[0][:200]) from cause
    missing = wanted - {name.lower() for name in there}
    if missing:
        raise _damaged(uri, f"no column {', '.join(sorted(missing))}")
    return rows


def _footer(source: Any, format: str) -> tuple[int, list[str]]:
    if format == "orc":
        from pyarrow import orc

        file = orc.ORCFile(source)
        return file.nrows, file.schema.names
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as parquet:
        return parquet.metadata.num_rows, parquet.schema_arrow.names


def _damaged(uri: str, got: str) -> Exception:
    return error(
        "SPS-DATA-FILE",
        f"Expected a whole file of scores at {uri}. Got {got}.",
        "Look at the sink's storage; nothing of the unit was committed, and the same run id scores it again.",
        file=uri,
    )


def assert_avro(schema: pa.Schema) -> None:
    """Refuse columns that Avro cannot hold, before anything is scored: by their names, and maps from other than texts.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`, naming the column.
    """
    for column in schema:
        for got in _refused(column):
            raise error(
                "SPS-SPEC-SINK",
                "Expected columns and fields named by letters, digits and '_', and maps whose keys are texts, for a "
                f"sink of format avro. Got {column.name}: {got}.",
                "Rename it in `prepare`, leave it out of `keep`, or use format parquet.",
                where=f"outputs.{column.name}",
            )


def _refused(field: pa.Field) -> Iterator[str]:
    """Tell what of a column Avro does not hold, as Spark judges it (`AvroFileFormat`, `SchemaConverters`)."""
    kind = field.type
    if not re.fullmatch(r"[^\W\d]\w*", field.name):
        yield f"the name {field.name!r}"
    if pa.types.is_map(kind):
        if not pa.types.is_string(kind.key_type):
            yield f"a map from {kind.key_type}"
        yield from _refused(kind.item_field)
    elif pa.types.is_list(kind):
        yield from _refused(kind.value_field)
    elif pa.types.is_struct(kind):
        for child in kind:
            yield from _refused(child)


def avro_struct(schema: StructType) -> StructType:
    """Give the schema under which Spark reads back what it wrote: it stores small integers as Avro's int."""
    from pyspark.sql.types import StructType

    return StructType.fromJson(_stored(schema.jsonValue()))


def _stored(kind: Any) -> Any:
    """Widen a type in Spark's JSON."""
    if isinstance(kind, list):
        return [_stored(field) for field in kind]
    if isinstance(kind, dict):
        types = ("type", "fields", "elementType", "keyType", "valueType")
        return {key: _stored(value) if key in types else value for key, value in kind.items()}
    return "integer" if kind in ("byte", "short") else kind
