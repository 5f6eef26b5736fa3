"""The worker's side of the look at files: it reads footers, and compares the needed columns with each file's own.

Workers import this module, so it imports no more than they have: pyarrow, and the floors below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from sparkscore.runtime import files
from sparkscore.runtime.arrow import structs
from sparkscore.spark.workers import answer_at_once

__all__ = ["RESULT", "Footers", "Read", "kind_of", "orc_footer", "parquet_footer", "unlike_spark"]

RESULT = pa.schema(
    [
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ms", pa.int64()),
        ("rows", pa.int64()),
        ("code", pa.string()),
        ("problem", pa.string()),
        ("unfused", pa.string()),
    ]
)
_Columns = tuple[tuple[str, str], ...]  # names and kinds
# Rows, columns (one whose type is null: Spark will tell), and the keys that the writer left.
Read = Callable[[Any], tuple[int | None, pa.Schema, Mapping[bytes, bytes]]]
_ENCRYPTED = b"sparkscore.encrypted"
# Spark has no unsigned integers, and reads Parquet's as the next type that holds them all.
_NEXT_SIGNED = {"uint8": "int16", "uint16": "int32", "uint32": "int64", "uint64": "decimal128(20, 0)"}


class Footers:
    """`mapInArrow` function over paths: rows and problems of the files, as `RESULT`.

    `fused` are the needed columns as Spark types them: of a file that a worker may read otherwise, `unfused` says why.
    """

    def __init__(self, read: Read, needed: _Columns, absent_is_null: bool, fused: pa.Schema | None = None) -> None:
        self._read = read
        self._needed = needed
        self._absent_is_null = absent_is_null
        self._fused = fused

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Look at the files of one partition."""
        answer_at_once()
        for batch in batches:
            looks = (self._look(path) for path in batch.column(0).to_pylist())
            rows = [dict(zip(RESULT.names, look, strict=True)) for look in looks]
            # Not by `pa.array`, which imports pandas: this worker goes on to score, and would hold it to its end.
            yield pa.RecordBatch.from_arrays(structs(rows, pa.struct(list(RESULT))).flatten(), schema=RESULT)

    def _look(self, path: str) -> tuple[str, int, int, int | None, str | None, str | None, str | None]:
        stat = files.stat([path])[0]
        if stat is None:
            return path, 0, 0, None, "SPS-DATA-GONE", "the file is not there", None
        facts = (path, stat.size_bytes, stat.mtime_ns // 1_000_000)
        filesystem, bare = files.filesystem(path)
        try:
            with filesystem.open_input_file(bare) as source:
                rows, schema, keys = self._read(source)
        except (pa.ArrowException, OSError) as cause:
            return *facts, None, "SPS-DATA-FILE", files.said_of(path, cause), None
        problem = self._column_problem(schema)
        unfused = None if problem or self._fused is None else unlike_spark(self._fused, schema, keys)
        return *facts, rows, "SPS-DATA-COLUMN" if problem else None, problem, unfused

    def _column_problem(self, schema: pa.Schema) -> str | None:
        by_name = {f.name.lower(): f.type for f in schema}
        for name, kind in self._needed:
            found = by_name.get(name.lower())
            if found is None and not self._absent_is_null:
                return f"column {name} ({kind}) is absent"
            if found is not None and not pa.types.is_null(found) and kind_of(found) != kind:
                return f"column {name} is {kind_of(found)}, planned as {kind}"
        return None


def parquet_footer(source: Any) -> tuple[int, pa.Schema, Mapping[bytes, bytes]]:
    """Read the rows, the columns and the writer's keys of a Parquet file; one of ours tells of encrypted columns.

    Notes
    -----
    A file with encrypted columns and a readable footer is known by the signature behind the footer (parquet-format,
    `Encryption.md` 5.4): pyarrow 26 ends the process when it is asked for anything of such a column.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as parquet:
        metadata = parquet.metadata
        source.seek(source.size() - 8)
        is_signed = int.from_bytes(source.read(4), "little") != metadata.serialized_size
        keys = {**(metadata.metadata or {}), **({_ENCRYPTED: b""} if is_signed else {})}
        return metadata.num_rows, parquet.schema_arrow, keys


def orc_footer(source: Any) -> tuple[int, pa.Schema, Mapping[bytes, bytes]]:
    """Read the rows and the columns of an ORC file."""
    from pyarrow import orc

    file = orc.ORCFile(source)
    return file.nrows, file.schema, {}


def unlike_spark(wanted: pa.Schema, schema: pa.Schema, keys: Mapping[bytes, bytes]) -> str | None:
    """Say why a worker might read another value of a Parquet file than Spark, None where it reads the same.

    Parameters
    ----------
    wanted : Schema
        The needed columns as Spark types them.
    schema : Schema
        The file's, as pyarrow reads it.
    keys : mapping
        What the file's writer left in its footer.

    Notes
    -----
    Spark takes days and instants of some writers for those of an older calendar (`DataSourceUtils.datetimeRebaseSpec`).
    pyarrow gives INT96 as nanoseconds, which overflow outside 1677 to 2262.
    """
    if _ENCRYPTED in keys:
        return "ENCRYPTED columns"
    types = {field.name.lower(): field.type for field in schema}
    for field in wanted:
        found = types.get(field.name.lower())
        if found is None:
            continue
        if pa.types.is_timestamp(found) and found.unit == "ns":
            return f"PARQUET_LEGACY {field.name} is in nanoseconds or INT96"
        if (pa.types.is_date(found) or pa.types.is_timestamp(found)) and _is_legacy(keys):
            return f"PARQUET_LEGACY {field.name} may be in the calendar of Spark 2"
        if not _same(field.type, found):
            return f"TYPES {field.name} is {found} in a file, {field.type} to Spark"
    return None


def _is_legacy(keys: Mapping[bytes, bytes]) -> bool:
    by_spark = keys.get(b"org.apache.spark.version", b"3")
    return by_spark < b"3" or any(key.startswith(b"org.apache.spark.legacy") for key in keys)


def _same(wanted: pa.DataType, found: pa.DataType) -> bool:
    """Whether a cast in Arrow gives what Spark reads."""
    if pa.types.is_dictionary(found):
        return _same(wanted, found.value_type)
    if pa.types.is_timestamp(wanted):
        return pa.types.is_timestamp(found) and (wanted.tz is None) == (found.tz is None)
    if pa.types.is_list(wanted):
        lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        return lists and _same(wanted.value_type, found.value_type)
    return kind_of(wanted) == kind_of(found)


def kind_of(data_type: pa.DataType) -> str:
    """A type by what Spark can read it as: the differences that Spark's Parquet reader accepts are not drift."""
    if pa.types.is_dictionary(data_type):
        return kind_of(data_type.value_type)
    if pa.types.is_timestamp(data_type):
        return "timestamp"
    if pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return "string"
    if pa.types.is_large_binary(data_type) or pa.types.is_fixed_size_binary(data_type):
        return "binary"
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type) or pa.types.is_fixed_size_list(data_type):
        return f"list<{kind_of(data_type.value_type)}>"
    if pa.types.is_struct(data_type):
        return "struct"
    if pa.types.is_map(data_type):
        return "map"
    return _NEXT_SIGNED.get(str(data_type), str(data_type))
