"""The worker's side of the look at files: it reads footers, and compares the needed columns with each file's own.

Workers import this module, so it imports no more than they have: pyarrow, and the floors below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.runtime import files

__all__ = ["RESULT", "Footers", "Read", "kind_of", "orc_footer", "parquet_footer"]

RESULT = pa.schema(
    [
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ms", pa.int64()),
        ("rows", pa.int64()),
        ("code", pa.string()),
        ("problem", pa.string()),
    ]
)
_Columns = tuple[tuple[str, str], ...]  # names and kinds
Read = Callable[[Any], tuple[int | None, pa.Schema]]  # a column whose type is null: Spark will tell
# Spark has no unsigned integers, and reads Parquet's as the next type that holds them all.
_SIGNED = {"uint8": "int16", "uint16": "int32", "uint32": "int64", "uint64": "decimal128(20, 0)"}


class Footers:
    """`mapInArrow` function over paths: rows and problems of the files, as `RESULT`."""

    def __init__(self, read: Read, needed: _Columns, absent_is_null: bool) -> None:
        self._read = read
        self._needed = needed
        self._absent_is_null = absent_is_null

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Look at the files of one partition."""
        for batch in batches:
            rows = [self._look(path) for path in batch.column(0).to_pylist()]
            columns = list(zip(*rows, strict=True)) or [()] * len(RESULT)
            arrays = [pa.array(list(c), f.type) for c, f in zip(columns, RESULT, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=RESULT)

    def _look(self, path: str) -> tuple[str, int, int, int | None, str | None, str | None]:
        stat = files.stat([path])[0]
        if stat is None:
            return path, 0, 0, None, "SPS-DATA-GONE", "the file is not there"
        facts = (path, stat.size_bytes, stat.mtime_ns // 1_000_000)
        filesystem, bare = files.filesystem(path)
        try:
            with filesystem.open_input_file(bare) as source:
                rows, schema = self._read(source)
        except (pa.ArrowException, OSError) as cause:
            told = str(cause).splitlines()[0][:200]
            if told.startswith("AWS Error"):  # the store's answer, which says nothing of the file
                wanted = f"Expected to reach {path}. Got {told}."
                raise error("SPS-CLUSTER-STORAGE", wanted, "Look at the store; try again.", file=path) from cause
            return *facts, None, "SPS-DATA-FILE", told
        problem = self._column_problem(schema)
        return *facts, rows, "SPS-DATA-COLUMN" if problem else None, problem

    def _column_problem(self, schema: pa.Schema) -> str | None:
        by_name = {f.name.lower(): f.type for f in schema}
        for name, kind in self._needed:
            found = by_name.get(name.lower())
            if found is None and not self._absent_is_null:
                return f"column {name} ({kind}) is absent"
            if found is not None and not pa.types.is_null(found) and kind_of(found) != kind:
                return f"column {name} is {kind_of(found)}, planned as {kind}"
        return None


def parquet_footer(source: Any) -> tuple[int, pa.Schema]:
    """Read the rows and the columns of a Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as parquet:
        return parquet.metadata.num_rows, parquet.schema_arrow


def orc_footer(source: Any) -> tuple[int, pa.Schema]:
    """Read the rows and the columns of an ORC file."""
    from pyarrow import orc

    file = orc.ORCFile(source)
    return file.nrows, file.schema


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
    return _SIGNED.get(str(data_type), str(data_type))
