"""Parts of Parquet files, read by the worker itself as the batches that Spark would have handed it.

A cell costs Spark some 100 ns on its way from a file through rows of its JVM into a batch of a worker, and 5 ns here.
What is read must be what Spark reads: `sparkscore.run.scan` says where that is so.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime import files
from sparkscore.runtime.arrow import numbers, texts
from sparkscore.runtime.filters import kept, may_hold
from sparkscore.spec.scoring import DROPPED_COL, FILE_COL, ROW_COL

__all__ = ["Scan", "Slice", "buffer_bytes", "cut", "folder_values", "read_slices", "spark_uri"]

_BUFFER_BYTES = 1024**2  # of a column that is being read; without one a whole row group is held
_S3_THREADS = 16  # that fill buffers: S3 takes some 100 ms to answer, however many ask
_S3_BUFFER_BYTES = 8 * 1024**2  # where each read is a request
_LEAST_BUFFER_BYTES = 256 * 1024
_BUFFERS_BYTES = 64 * 1024**2  # of all columns together
_BATCH_ROWS = 65_536
_BATCH_ROWS_UNSIZED = 8192  # where an encoding hides how large the values are
_SAMPLE_ROWS = 64  # which then tell it
_BATCH_BYTES = 8 * 1024**2
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8}  # of values, by their physical type
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
_PLAIN = "-_.!~*'(),;:$&+=@/"  # of a path in a URI, to java.net.URI, beside letters and digits


@dataclass(frozen=True)
class Slice:
    """The row groups of a file that begin between two bytes, the second not included, and the file as planned."""

    path: str
    start: int
    stop: int
    size_bytes: int
    mtime_ms: int


@dataclass(frozen=True)
class Scan:
    """How slices are read.

    Attributes
    ----------
    columns : tuple of (str, str)
        Name in the batch, and the source's own column that it shows.
    schema : pyarrow.Schema
        Of the source's own columns that are read, those of `where` and `drops` too, as Spark types them.
    partitions : tuple of str
        The columns whose values are in the names of folders, outermost first.
    absent_is_null : bool
        Whether a file may lack a column (Delta), whose cells are then null.
    where : tuple, optional
        What a row must meet to be part of the input.
    drops : tuple of (int, tuple)
        Index in `prepare`, and what a row must meet there; one that does not stays, and is marked with the index.
    """

    columns: tuple[tuple[str, str], ...]
    schema: pa.Schema
    partitions: tuple[str, ...] = ()
    absent_is_null: bool = False
    where: tuple[Any, ...] | None = None
    drops: tuple[tuple[int, tuple[Any, ...]], ...] = ()

    @property
    def batch_schema(self) -> pa.Schema:
        """Of the batches, without the rows' addresses."""
        return pa.schema([(name, self.schema.field(source).type) for name, source in self.columns])


def cut(path: str, size_bytes: int, mtime_ms: int, part_bytes: int) -> list[Slice]:
    """Cut a file into slices of about `part_bytes`, at least one; each row group is in exactly one of them."""
    parts = max(1, -(-size_bytes // part_bytes))
    bounds = [size_bytes * part // parts for part in range(parts + 1)]
    return [Slice(path, a, b, size_bytes, mtime_ms) for a, b in pairwise(bounds)]


def read_slices(scan: Scan, slices: Sequence[Slice]) -> Iterator[pa.RecordBatch]:
    """Read slices one after another.

    Parameters
    ----------
    scan : Scan
    slices : sequence of Slice

    Yields
    ------
    RecordBatch
        The scan's columns by their names in the batch, and the address of each row: `FILE_COL`, as Spark writes it,
        and `ROW_COL`, int64; with `drops`, also `DROPPED_COL`, int32. At most 65,536 rows and some 8 MiB, and of each
        column a page and a buffer, are all that is held, however large a row group is. Where an encoding hides the size
        of texts and bytes, the least and the greatest of a row group stand for the others, or the first, where it does
        not tell those, and a batch has at most 8,192.

    Raises
    ------
    RecordError
        `SPS-DATA-GONE`, `SPS-DATA-DRIFT` when a file is not as planned, before its first row or after its last;
        `SPS-DATA-COLUMN`, `SPS-DATA-FILE` when it lacks a column or cannot be read.
    """
    layout: _Layout | None = None
    for one in slices:
        files.assert_unchanged([one], file=one.path)
        with _named(one.path):
            layout = yield from _read(scan, one, layout)
        files.assert_unchanged([one], file=one.path)


def _read(scan: Scan, one: Slice, layout: _Layout | None) -> Generator[pa.RecordBatch, None, _Layout]:
    """Read one slice, and give the layout of its file: the one of the file before, where the schema is the same."""
    import pyarrow.parquet as pq

    filesystem, bare = files.filesystem(one.path)
    is_s3 = files.is_s3(one.path)
    if is_s3 and pa.cpu_count() < _S3_THREADS:
        pa.set_cpu_count(_S3_THREADS)
    # A mapped file that is cut off meanwhile is a SIGBUS, not an error.
    with (
        filesystem.open_input_file(bare) as source,
        pq.ParquetFile(
            source,
            memory_map=False,
            buffer_size=buffer_bytes(one.path, len(scan.schema)),
            pre_buffer=False,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        ) as parquet,
    ):
        if layout is None or not layout.schema.equals(parquet.schema_arrow):
            layout = _Layout(scan, parquet.schema_arrow, one.path)
        columns = _Columns(scan, one, layout)
        for group, first_row in _groups(parquet.metadata, one):
            if not columns.may_hold(parquet.metadata.row_group(group)):
                continue
            rows = _batch_rows(parquet, group, layout.names)
            for batch in parquet.iter_batches(rows, [group], layout.names, use_threads=is_s3):
                yield columns.shown(batch, first_row)
                first_row += batch.num_rows
    return layout


def buffer_bytes(path: str, columns: int) -> int:
    """Give the bytes of a file's column that are read at once, where so many columns are read."""
    most = _S3_BUFFER_BYTES if files.is_s3(path) else _BUFFER_BYTES
    return max(_LEAST_BUFFER_BYTES, min(most, _BUFFERS_BYTES // max(1, columns)))


def _groups(metadata: Any, one: Slice) -> list[tuple[int, int]]:
    """Give the slice's row groups, each with the index of its first row in the file."""
    chosen, first_row = [], 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if one.start <= _begin(group) < one.stop and group.num_rows:
            chosen.append((index, first_row))
        first_row += group.num_rows
    return chosen


def _batch_rows(parquet: Any, index: int, names: Sequence[str]) -> int:
    """Cut a row group into even batches: a short one at the end of each group would have to be merged with the next."""
    group, wanted, most, size, unknown = parquet.metadata.row_group(index), set(names), _BATCH_ROWS, 0.0, []
    for i in range(group.num_columns):
        column = group.column(i)
        own = _owner(column.path_in_schema, wanted)
        if own is None:
            continue
        length = parquet.metadata.schema.column(i).length  # of values of one length, else 0
        known = (length or _WIDTHS.get(column.physical_type, 0)) * column.num_values
        if not known and any("DICTIONARY" in name or name == "DELTA_BYTE_ARRAY" for name in column.encodings):
            most, known = _BATCH_ROWS_UNSIZED, _told_bytes(column)
            if not known:
                unknown.append(own)
                continue
        size += known or column.total_uncompressed_size
    size += _sampled_bytes(parquet, index, unknown) if unknown else 0
    batches = max(1, -(-group.num_rows // most), round(size / _BATCH_BYTES))
    return int(-(-group.num_rows // batches))


def _owner(path: str, names: set[str]) -> str | None:
    """Find the column that a leaf is of; each may have dots in its name."""
    parts = path.split(".")
    return next((own for i in range(len(parts), 0, -1) if (own := ".".join(parts[:i])) in names), None)


def _told_bytes(column: Any) -> int:
    """Give what a chunk of texts would take if all were as long as its least or greatest; 0 where it does not tell."""
    found = column.statistics
    is_told = found is not None and found.has_min_max
    return max(len(found.min_raw), len(found.max_raw), 1) * column.num_values if is_told else 0


def _sampled_bytes(parquet: Any, index: int, names: Sequence[str]) -> float:
    """Give what some columns of a row group take once they are read, by its first rows."""
    first = next(parquet.iter_batches(_SAMPLE_ROWS, [index], list(names), use_threads=False))
    arrays = [a.dictionary_decode() if pa.types.is_dictionary(a.type) else a for a in first.columns]
    return float(sum(array.nbytes for array in arrays) / first.num_rows * parquet.metadata.row_group(index).num_rows)


def _begin(group: Any) -> int:
    column = group.column(0)
    return int(column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset)


class _Layout:
    """Where files of one schema have the columns of a scan."""

    def __init__(self, scan: Scan, schema: pa.Schema, path: str) -> None:
        self.schema = schema
        same: dict[str, list[str]] = {}
        for own in schema.names:
            same.setdefault(own.lower(), []).append(own)
        # By name: pyarrow takes a name with a dot for the path of a leaf too, and reads that one's column besides.
        self.own: dict[str, str] = {}
        for name in (name for name in scan.schema.names if name not in scan.partitions):
            found = same.get(name.lower(), [])
            if len(found) > 1 or not (found or scan.absent_is_null):
                raise _no_column(name, path, found)
            if found:
                self.own[name] = found[0]
        wanted = set(self.own.values())
        # In the file's order. A batch without columns has no length: one that is not asked for stands for the rows.
        self.names = [name for name in schema.names if name in wanted] or [_smallest(schema)]
        # By the path of a leaf. A name with a dot is also the path of a field of a struct.
        types = {name: schema.field(own).type for name, own in self.own.items() if "." not in own}
        self.ordered = {self.own[name]: name for name, kind in types.items() if _is_ordered(kind)}


def _no_column(name: str, path: str, found: Sequence[str]) -> SparkscoreError:
    return error(
        "SPS-DATA-COLUMN",
        f"Expected one column {name} in {path}. Got {' and '.join(found) or 'none'}.",
        "Rewrite the file, or point the source at the others.",
        file=path,
    )


class _Columns:
    """Gives the batches of one file their types, names and addresses."""

    def __init__(self, scan: Scan, one: Slice, layout: _Layout) -> None:
        self.scan = scan
        self.own = layout.own
        self.ordered = layout.ordered
        self.labels = [*(name for name, _ in scan.columns), FILE_COL, ROW_COL, *([DROPPED_COL] if scan.drops else [])]
        self.file = texts([spark_uri(one.path)])
        told = folder_values(one.path, scan.partitions)
        self.fixed = {name: texts([told.get(name)]).cast(scan.schema.field(name).type) for name in scan.partitions}
        known = {name: array[0].as_py() for name, array in self.fixed.items()}
        as_bytes = {name: value.encode() if isinstance(value, str) else value for name, value in known.items()}
        self.spans = {name: (value, value) for name, value in as_bytes.items() if value is not None}

    def may_hold(self, group: Any) -> bool:
        """Say whether a row group may have a row that the scan wants, by its statistics and its folders."""
        if self.scan.where is None:
            return True
        spans = dict(self.spans)
        for column in (group.column(i) for i in range(group.num_columns)):
            name = self.ordered.get(column.path_in_schema)
            found = column.statistics if name is not None else None
            if name is not None and found is not None and found.has_min_max:
                as_bytes = column.physical_type == "BYTE_ARRAY"  # texts may be cut off within a character
                with suppress(OverflowError, ValueError):  # days that Spark has, and Python has not
                    spans[name] = (found.min_raw, found.max_raw) if as_bytes else (found.min, found.max)
        return may_hold(self.scan.where, spans)

    def shown(self, batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        """Give the rows that the scan wants, typed as Spark types them, under their names, with their addresses."""
        n = batch.num_rows
        own = {field.name: self._typed(batch, field) for field in self.scan.schema}
        first = pa.Array.from_buffers(pa.int32(), n, [None, pa.py_buffer(bytes(4 * n))])
        arrays = [
            *(own[source] for _, source in self.scan.columns),
            pa.DictionaryArray.from_arrays(first, self.file),  # one text for all rows
            numbers(np.arange(first_row, first_row + n, dtype=np.int64)),
        ]
        if self.scan.drops:
            arrays.append(self._dropped(own, n))
        found = pa.RecordBatch.from_arrays(arrays, names=self.labels)
        return found if self.scan.where is None else found.filter(kept(self.scan.where, own))

    def _dropped(self, own: Mapping[str, pa.Array], n: int) -> pa.Array:
        """Give the first step that each row does not meet, null where it meets all."""
        found = pa.nulls(n, pa.int32())
        for index, one in reversed(self.scan.drops):
            found = pc.if_else(kept(one, own).fill_null(False), found, numbers(np.array([index], np.int32))[0])
        return found

    def _typed(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        own = self.own.get(field.name)
        if own is not None:
            array = batch.column(own)
            return array if array.type == field.type else array.cast(field.type)
        if field.name in self.fixed:
            return pa.repeat(self.fixed[field.name][0], batch.num_rows)
        return pa.nulls(batch.num_rows, field.type)


def _smallest(schema: pa.Schema) -> str:
    """Name a column of numbers, or the first one where there is none."""
    return str(next((field.name for field in schema if pa.types.is_primitive(field.type)), schema.names[0]))


def _is_ordered(kind: pa.DataType) -> bool:
    """Whether statistics order a column's values as a filter does; a float's leave NaN out."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    ordered = (pa.types.is_string, pa.types.is_large_string, pa.types.is_date32, pa.types.is_signed_integer)
    return any(is_kind(kind) for is_kind in ordered)


def folder_values(path: str, partitions: Sequence[str]) -> dict[str, str | None]:
    """Give partition columns' values as the names of a file's folders tell them, the innermost where there are two."""
    own = {name.lower(): name for name in partitions}
    found: dict[str, str | None] = {}
    for folder in path.split("/")[:-1]:
        name, is_value, value = folder.partition("=")
        if is_value and unquote(name).lower() in own:
            found[own[unquote(name).lower()]] = None if value == _NULL_FOLDER else unquote(value)
    return found


def spark_uri(path: str) -> str:
    """Write a file's literal URI as Spark does in `_metadata.file_path`: as Java quotes the path of a URI.

    Examples
    --------
    >>> spark_uri("file:///data/a b%20.parquet")
    'file:/data/a%20b%2520.parquet'
    >>> spark_uri("s3a://bucket/k=ü/x.parquet")
    's3a://bucket/k=ü/x.parquet'
    """
    scheme, found, rest = path.partition("://")
    return f"{scheme}:{'' if scheme == 'file' else '//'}{_quoted(rest)}" if found else _quoted(path)


def _quoted(path: str) -> str:
    return "".join(c if c.isalnum() or c in _PLAIN or (ord(c) > 159 and not c.isspace()) else quote(c) for c in path)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Name the file in what pyarrow raises of it."""
    try:
        yield
    except FileNotFoundError as cause:
        raise error("SPS-DATA-GONE", f"Expected {path} as planned. Got nothing.", "Restore it.", file=path) from cause
    except (pa.ArrowException, OSError) as cause:
        raise error(
            "SPS-DATA-FILE",
            f"Expected a Parquet file that can be read. Got {path}: {files.said_of(path, cause)}.",
            "Restore or rewrite the file.",
            file=path,
        ) from cause
