"""A batch of columns into the feeds of the model: bad rows are marked and left out, the rest grouped by equal shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.runtime.encoders.arrays import ArrayEncoder
from sparkscore.runtime.encoders.category import CategoryEncoder
from sparkscore.runtime.encoders.image import ImageEncoder
from sparkscore.runtime.encoders.numbers import NumbersEncoder
from sparkscore.runtime.encoders.text import TextEncoder
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.tensors import Cells, Ragged, Tally
from sparkscore.spec.scoring import Category, Image, InputPlan, Numbers, Part, ScoringPlan, Tensor, Text

__all__ = ["Encoder", "Group"]


@dataclass(frozen=True)
class Group:
    """Good rows of one shape: their positions in the batch (ndarray of int64, shape (k,)), and a feed a graph input."""

    rows: NDArray[np.int64]
    feeds: dict[str, NDArray[Any]]


class PartEncoder(Protocol):
    """Turns the columns of one part into a block of shape (n, …), or into one array a row."""

    def encode(self, cells: Cells) -> NDArray[Any] | Ragged:
        """Encode a batch, and mark its bad rows."""


# One line a kind of part: what encodes it.
_KINDS: dict[type[Part], Callable[[Any, InputPlan, ScoringPlan, Path, dict[object, Any]], PartEncoder]] = {
    Numbers: lambda part, tensor, plan, folder, shared: NumbersEncoder(part, tensor),
    Tensor: lambda part, tensor, plan, folder, shared: ArrayEncoder(part, tensor),
    Category: lambda part, tensor, plan, folder, shared: CategoryEncoder(part, tensor, folder),
    Text: lambda part, tensor, plan, folder, shared: TextEncoder(part, tensor, folder, shared),
    Image: lambda part, tensor, plan, folder, shared: ImageEncoder(part, tensor, plan),
}


class Encoder:
    """Encodes batches by a plan; `folder` is the model's, with the encoders' files in it.

    Raises
    ------
    ModelError
        SPS-MODEL-ENCODER: an encoder's file cannot be used.
    ClusterError
        SPS-ENV-PACKAGE: an encoder's package is not installed.
    """

    def __init__(self, plan: ScoringPlan, folder: Path) -> None:
        shared: dict[object, Any] = {}
        self._inputs = [
            (tensor, [_KINDS[type(part)](part, tensor, plan, folder, shared) for part in tensor.parts])
            for tensor in plan.inputs
        ]
        self._tally = Tally()

    @property
    def rows_truncated(self) -> int:
        """Texts that were cut to `max_tokens`, over all batches so far."""
        return self._tally.rows_truncated

    @property
    def copied_bytes(self) -> int:
        """Bytes of tensors that were copied out of Arrow memory, over all batches so far."""
        return self._tally.copied_bytes

    def encode(self, batch: pa.RecordBatch, faults: Faults) -> list[Group]:
        """Encode the rows that are good.

        Parameters
        ----------
        batch : RecordBatch
            With the columns of the plan; n rows.
        faults : Faults
            Of n rows. Rows marked before are left out; rows that break a rule are marked.

        Returns
        -------
        list of Group
            One group normally; one for each shape where rows have their own; none when no row is good. Without bad
            rows the feeds are views of the batch's memory where the types allow it.
        """
        if not batch.num_rows:
            return []
        cells = Cells(batch, faults, self._tally)
        blocks = {tensor.name: self._block(tensor, parts, cells) for tensor, parts in self._inputs}
        rows = np.flatnonzero(~faults.bad) if faults.any else np.arange(batch.num_rows)
        if not len(rows):
            return []
        return [Group(part, self._feeds(blocks, part, batch.num_rows)) for part in _by_shape(blocks, rows)]

    def _block(self, tensor: InputPlan, parts: list[PartEncoder], cells: Cells) -> NDArray[Any] | Ragged:
        blocks = [part.encode(cells) for part in parts]
        if len(blocks) == 1 and isinstance(blocks[0], Ragged):
            return blocks[0]
        dense = [block for block in blocks if isinstance(block, np.ndarray)]  # ragged parts are never packed
        if len(dense) > 1:
            packed = np.concatenate(dense, axis=1)
            self._tally.copied_bytes += packed.nbytes
            return packed
        return dense[0].reshape(-1) if tensor.row_shape == () else dense[0]

    def _feeds(
        self, blocks: dict[str, NDArray[Any] | Ragged], rows: NDArray[np.int64], n: int
    ) -> dict[str, NDArray[Any]]:
        feeds = {}
        for name, block in blocks.items():
            if isinstance(block, Ragged):
                feeds[name] = block.dense(rows, self._tally)
            elif len(rows) == n:
                feeds[name] = block
            else:
                feeds[name] = block[rows]
                self._tally.copied_bytes += feeds[name].nbytes
        return feeds


def _by_shape(blocks: dict[str, NDArray[Any] | Ragged], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Part rows so that in each part every input has one shape, in the order of the parts' first rows."""
    ragged = [block.shapes[rows] for block in blocks.values() if isinstance(block, Ragged)]
    shapes = np.concatenate(ragged, axis=1) if ragged else None
    if shapes is None or (shapes == shapes[0]).all():
        return [rows]
    _, first, kind = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    return [rows[kind.reshape(-1) == i] for i in np.argsort(first)]
