"""The input files of a plan as columns: a hundred bytes of memory each, and objects only of the unit at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import astuple, dataclass

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["FILES", "FileList", "InputFile"]

FILES = pa.schema([("path", pa.string()), ("size_bytes", pa.int64()), ("mtime_ms", pa.int64()), ("rows", pa.int64())])


@dataclass(frozen=True)
class InputFile:
    """One input file as the plan pinned it. `rows` is None where the format cannot tell before it is read."""

    path: str
    size_bytes: int
    mtime_ms: int
    rows: int | None


class FileList(Collection[InputFile]):
    """Files in their order; iterating makes an `InputFile` of each.

    Parameters
    ----------
    table : pyarrow.Table
        Of the columns `FILES`, which a larger table may share.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, files: Iterable[InputFile]) -> FileList:
        """Take files that are objects."""
        if isinstance(files, FileList):
            return files
        columns = list(zip(*map(astuple, files), strict=True)) or [()] * len(FILES)
        arrays = [pa.array(list(c), field.type) for c, field in zip(columns, FILES, strict=True)]
        return cls(pa.Table.from_arrays(arrays, schema=FILES))

    @property
    def rows(self) -> int | None:
        """Rows in the files, None where one cannot tell."""
        counts = self.table["rows"]
        return None if counts.null_count else int(pc.sum(counts).as_py() or 0)

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return int(pc.sum(self.table["size_bytes"]).as_py() or 0)

    def values(self, *names: str) -> Iterator[tuple[object, ...]]:
        """Give columns of `FILES` row by row."""
        return zip(*(self.table[name].to_pylist() for name in names), strict=True)

    def spread(self, most: int) -> FileList:
        """Give at most so many of the files, from all over the list."""
        return FileList(self.table.take(pa.array(range(0, len(self), max(1, -(-len(self) // most))), pa.int64())))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __contains__(self, file: object) -> bool:
        return any(file == one for one in self)

    def __iter__(self) -> Iterator[InputFile]:
        return (InputFile(**row) for row in self.table.to_pylist())

    def __getitem__(self, index: int) -> InputFile:
        return InputFile(**self.table.slice(index, 1).to_pylist()[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileList) and self.table.equals(other.table)

    __hash__ = None  # type: ignore[assignment]  # as of any list
