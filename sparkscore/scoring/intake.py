"""The helper columns of an adapter: rows dropped by `prepare`, malformed lines, and the address of each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparkscore.runtime.arrow import mask_of, numbers, texts
from sparkscore.runtime.faults import Faults
from sparkscore.scoring.counts import Counts
from sparkscore.spec.scoring import BLOCK_COL, CORRUPT_COL, DROPPED_COL, FILE_COL, ROW_COL

__all__ = ["Ends", "Intake", "mark_corrupt", "pointers"]

_PLUS, _HASH = texts(["+", "#"])
ORDINAL_COL = "_ss_ordinal"  # int64: position of the row within its (file, block), made here


class Intake:
    """Counts rows in, drops and counts those that a `where` dropped, and numbers rows that have only a block.

    The ordinal counts every row of a block, malformed and dropped ones too, so it is stable: a block is read by one
    task in file order.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._seen: dict[tuple[str, int], int] = {}  # rows read so far by (file, block); a task has few

    def read(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Give the batches without their dropped rows; empty ones vanish."""
        for batch in batches:
            self._counts.rows_in += batch.num_rows
            kept = self._without_dropped(self._numbered(batch))
            if kept.num_rows:
                yield kept

    def _numbered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not (_has(batch, FILE_COL) and _has(batch, BLOCK_COL) and batch.num_rows):
            return batch
        if _has(batch, ROW_COL) and batch.column(ROW_COL).null_count == 0:
            return batch
        files, blocks = batch.column(FILE_COL), batch.column(BLOCK_COL)
        ordinals = np.arange(batch.num_rows, dtype=np.int64)
        starts = _run_starts(files, blocks)
        for start, stop in zip(starts, [*starts[1:], batch.num_rows], strict=True):
            key = (files[start].as_py(), blocks[start].as_py())
            ordinals[start:stop] += self._seen.get(key, 0) - start
            self._seen[key] = self._seen.get(key, 0) + stop - start
        return batch.append_column(pa.field(ORDINAL_COL, pa.int64()), numbers(ordinals))

    def _without_dropped(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not _has(batch, DROPPED_COL):
            return batch
        steps = batch.column(DROPPED_COL)
        if steps.null_count == len(steps):
            return batch
        filtered = self._counts.rows_filtered
        for entry in pc.value_counts(steps.drop_null()).to_pylist():
            filtered[entry["values"]] = filtered.get(entry["values"], 0) + entry["counts"]
        return batch.filter(steps.is_null())


def _has(batch: pa.RecordBatch, name: str) -> bool:
    return bool(batch.schema.get_field_index(name) >= 0)


def _run_starts(files: pa.Array, blocks: pa.Array) -> list[int]:
    """Where the rows of another (file, block) begin; 0 is always one."""
    return [0, *(np.flatnonzero(_differs(files) | _differs(blocks)) + 1).tolist()]


def _differs(column: pa.Array) -> NDArray[np.bool_]:
    after, before = column.slice(1), column.slice(0, len(column) - 1)
    return mask_of(pc.not_equal(after, before)) | mask_of(pc.xor(after.is_null(), before.is_null()))


def mark_corrupt(batch: pa.RecordBatch, faults: Faults) -> None:
    """Mark malformed CSV and JSON lines, before anything looks at their cells: those are null."""
    if _has(batch, CORRUPT_COL):
        lines = batch.column(CORRUPT_COL)
        if lines.null_count != len(lines):
            faults.add(
                mask_of(lines.is_valid()),
                "SPS-ROW-DECODE",
                "The line is malformed for the source's schema.",
                stage="read",
            )


def pointers(batch: pa.RecordBatch) -> pa.StringArray:
    """Give the address of each row: ``uri#row_index``, ``uri#block+ordinal``, or null where the source has none.

    Parameters
    ----------
    batch : RecordBatch
        From `Intake.read`, n rows or some of them.

    Returns
    -------
    StringArray
        Of length n.
    """
    nothing = pa.nulls(batch.num_rows, pa.string())
    file, index, block, ordinal = (
        batch.column(name).cast(pa.string()) if _has(batch, name) else nothing
        for name in (FILE_COL, ROW_COL, BLOCK_COL, ORDINAL_COL)
    )
    by_block = pc.binary_join_element_wise(block, ordinal, _PLUS)
    return pc.binary_join_element_wise(file, pc.coalesce(index, by_block), _HASH)


class Ends:
    """Gives the addresses of the first and the last row of batches of one schema, as `pointers` does, at 10 us each."""

    def __init__(self, schema: pa.Schema) -> None:
        self._places = [schema.get_field_index(name) for name in (FILE_COL, ROW_COL, BLOCK_COL, ORDINAL_COL)]

    def of(self, batch: pa.RecordBatch) -> tuple[str | None, str | None]:
        """Give both; of a single row they are the same."""
        columns = [batch.column(place) if place >= 0 else None for place in self._places]
        return _pointer(columns, 0), _pointer(columns, batch.num_rows - 1)


def _pointer(columns: list[pa.Array | None], row: int) -> str | None:
    files, indices, blocks, ordinals = columns
    file = None if files is None else files[row].as_py()
    index = None if indices is None else indices[row].as_py()
    if index is None and blocks is not None and ordinals is not None:
        index = f"{blocks[row].as_py()}+{ordinals[row].as_py()}"
    return None if file is None or index is None else f"{file}#{index}"
