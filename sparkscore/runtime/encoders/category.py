"""Values of a vocabulary as their indices, or as one column of zeros and a one for each entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparkscore.errors import error
from sparkscore.runtime.arrow import texts, viewed
from sparkscore.runtime.encoders.lines import read_lines
from sparkscore.runtime.tensors import Cells, is_text, null_mask
from sparkscore.spec.scoring import Category, InputPlan

__all__ = ["CategoryEncoder", "vocabulary", "width"]


def vocabulary(part: Category, folder: Path) -> tuple[str, ...]:
    """Give the entries of a category, inline or from its file.

    Raises
    ------
    ModelError
        SPS-MODEL-ENCODER: a file that cannot be read, or an entry that stands twice.
    """
    entries = read_lines(folder / part.vocabulary_file) if part.vocabulary_file else part.vocabulary
    if len(set(entries)) < len(entries):
        twice = next(entry for entry in entries if entries.count(entry) > 1)
        message = (
            f"Expected different entries in vocabulary {part.vocabulary_file or 'given inline'}, got {twice!r} twice."
        )
        raise error("SPS-MODEL-ENCODER", message, "Keep each entry once.", column=part.columns[0])
    return entries


def width(part: Category, entries: tuple[str, ...]) -> int:
    """Say how many columns a category yields: one, or one for each index when it is spread."""
    if not part.one_hot:
        return 1
    return max(len(entries), 0 if part.unknown is None else part.unknown + 1)


class CategoryEncoder:
    """Looks one column up in its vocabulary; integers are looked up as their text."""

    def __init__(self, part: Category, tensor: InputPlan, folder: Path) -> None:
        self.part = part
        self.name = part.columns[0]
        entries = vocabulary(part, folder)
        self.entries = texts(entries)
        self.width = width(part, entries)
        self.dtype = np.dtype(tensor.dtype)
        fill = part.missing.fill if part.missing.null == "fill" else None
        self.fill = entries.index(str(fill)) if fill is not None and str(fill) in entries else part.unknown

    def encode(self, cells: Cells) -> NDArray[Any]:
        """Give the indices as (n, 1), or spread to (n, width); unknown values are marked unless they have an index."""
        column = cells.batch.column(self.name)
        nulls = null_mask(column)
        found = self._found(column)
        missed = null_mask(found)
        indices = viewed(found).astype(np.int64)
        if missed is not None:
            indices[missed] = 0
            unknown = missed if nulls is None else missed & ~nulls
            if self.part.unknown is None:
                message = f"Expected a value of the vocabulary in column {self.name!r}, got one that it lacks"
                cells.faults.add(unknown, "SPS-ROW-CATEGORY", message)
            else:
                indices[unknown] = self.part.unknown
        if nulls is not None:
            if self.part.missing.null == "error":
                cells.faults.add(nulls, "SPS-ROW-NULL", f"Expected a value in column {self.name!r}, got null")
            indices[nulls] = self.fill or 0
        block = self._block(indices)
        if nulls is not None and self.part.missing.null == "nan":
            block[nulls] = np.nan
        cells.tally.copied_bytes += block.nbytes
        return block

    def _found(self, column: pa.Array) -> pa.Array:
        """Look values up; of a dictionary only the entries, each once."""
        if pa.types.is_dictionary(column.type):
            return self._found(column.dictionary).take(column.indices)
        if not (is_text(column.type) and column.type == pa.string()):
            column = column.cast(pa.string())
        return pc.index_in(column, value_set=self.entries)

    def _block(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        if not self.part.one_hot:
            return indices.astype(self.dtype).reshape(-1, 1)
        block = np.zeros((len(indices), self.width), self.dtype)
        block[np.arange(len(indices)), indices] = 1
        return block
