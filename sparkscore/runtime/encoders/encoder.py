"""A batch of columns into the feeds of the model: bad rows are marked and left out, the rest grouped by equal shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.runtime.encoders.arrays import ArrayEncoder
from sparkscore.runtime.encoders.category import CategoryEncoder
from sparkscore.runtime.encoders.image import ImageEncoder
from sparkscore.runtime.encoders.numbers import NumbersEncoder
from sparkscore.runtime.encoders.text import Padded, TextEncoder
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.tensors import Cells, Ragged, Tally
from sparkscore.spec.scoring import Category, Image, InputPlan, Numbers, Part, ScoringPlan, Tensor, Text

__all__ = ["Encoder", "Group"]


Block = NDArray[Any] | Ragged | Padded  # a part or an input, of all rows of a batch


@dataclass(frozen=True)
class Group:
    """Good rows of one shape.

    Attributes
    ----------
    rows : ndarray of int64, shape (k,)
        Their positions in the batch, ascending.
    feeds_of : callable
        Gives, for some of the rows, an array a graph input, with those rows on axis 0.
    lengths : ndarray of int64, shape (k,), optional
        Tokens of each row, where texts are padded to the longest of those that are called together.
    twins : (ndarray of int64, ndarray of int64)
        Further good rows of the batch, and for each the one of `rows` that feeds the model exactly the same.
    """

    rows: NDArray[np.int64]
    feeds_of: Callable[[NDArray[np.int64]], dict[str, NDArray[Any]]]
    lengths: NDArray[np.int64] | None
    twins: tuple[NDArray[np.int64], NDArray[np.int64]]

    @cached_property
    def feeds(self) -> dict[str, NDArray[Any]]:
        """Those of all `rows`."""
        return self.feeds_of(self.rows)


class PartEncoder(Protocol):
    """Turns the columns of one part into a block of shape (n, …), or into one array a row."""

    def encode(self, cells: Cells) -> Block:
        """Encode a batch, and mark its bad rows."""


_NO_TWINS = (np.empty(0, np.int64), np.empty(0, np.int64))

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

    def encode(self, batch: pa.RecordBatch, faults: Faults, tally: Tally) -> list[Group]:
        """Encode the rows that are good.

        Parameters
        ----------
        batch : RecordBatch
            With the columns of the plan; n rows.
        faults : Faults
            Of n rows. Rows marked before are left out; rows that break a rule are marked.
        tally : Tally
            Counts what encoding costs, the making of a group's feeds too.

        Returns
        -------
        list of Group
            One group normally; one for each shape where rows have their own; none when no row is good. Without bad
            rows the feeds are views of the batch's memory where the types allow it.
        """
        if not batch.num_rows:
            return []
        cells = Cells(batch, faults, tally)
        blocks = {tensor.name: self._block(tensor, parts, cells) for tensor, parts in self._inputs}
        rows = np.flatnonzero(~faults.bad) if faults.any else np.arange(batch.num_rows)
        if not len(rows):
            return []
        feeds_of = partial(_feeds, blocks, None if faults.any else rows, tally)
        return [_group(part, blocks, feeds_of) for part in _by_shape(blocks, rows)]

    def _block(self, tensor: InputPlan, parts: list[PartEncoder], cells: Cells) -> Block:
        blocks = [part.encode(cells) for part in parts]
        if len(blocks) == 1 and not isinstance(blocks[0], np.ndarray):
            return blocks[0]
        dense = [block for block in blocks if isinstance(block, np.ndarray)]  # the others are never packed
        if len(dense) > 1:
            shape, dtype = dense[0].shape, np.result_type(*dense)
            packed = cells.tally.empty((shape[0], sum(block.shape[1] for block in dense), *shape[2:]), dtype)
            return np.concatenate(dense, axis=1, out=packed)
        return dense[0].reshape(-1) if tensor.row_shape == () else dense[0]


def _feeds(
    blocks: dict[str, Block], every: NDArray[np.int64] | None, tally: Tally, rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Take some rows of the blocks; `every` is the array of all of them, for which a block is as it is."""
    feeds = {}
    for name, block in blocks.items():
        if not isinstance(block, np.ndarray):
            feeds[name] = block.dense(rows, tally)
        elif rows is every:
            feeds[name] = block
        else:
            feeds[name] = block[rows]
            tally.copied_bytes += feeds[name].nbytes
    return feeds


def _group(rows: NDArray[np.int64], blocks: dict[str, Block], feeds_of: Callable[..., Any]) -> Group:
    """Find the lengths of texts and, where nothing but text feeds the model, rows of the same ones."""
    texts = [block for block in blocks.values() if isinstance(block, Padded) and block.is_counted]
    if not texts:
        return Group(rows, feeds_of, None, _NO_TWINS)
    twins = _NO_TWINS
    if all(isinstance(block, Padded) for block in blocks.values()):
        key = np.zeros(len(rows), np.int64)
        for block in texts:
            number = block.texts[rows]
            _, first, key = np.unique(key * (number.max() + 1) + number, return_index=True, return_inverse=True)
        leader = first[key]
        is_twin = leader != np.arange(len(rows))
        twins = (rows[is_twin], rows[leader[is_twin]])
        rows = rows[~is_twin]
    lengths = np.zeros(len(rows), np.int64)
    for block in texts:
        lengths += block.fixed or block.lengths[rows]
    return Group(rows, feeds_of, lengths, twins)


def _by_shape(blocks: dict[str, Block], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Part rows so that in each part every input has one shape, in the order of the parts' first rows."""
    ragged = [block.shapes[rows] for block in blocks.values() if isinstance(block, Ragged)]
    shapes = np.concatenate(ragged, axis=1) if ragged else None
    if shapes is None or (shapes == shapes[0]).all():
        return [rows]
    _, first, kind = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    return [rows[kind.reshape(-1) == i] for i in np.argsort(first)]
