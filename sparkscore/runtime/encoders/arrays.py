"""A list, nested-list, fixed-size-list or binary column as one array a row, cut out of the column's own memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.runtime.arrow import numbers, viewed
from sparkscore.runtime.tensors import (
    Cells,
    Flaw,
    Ragged,
    is_text,
    mark,
    null_mask,
    number_flaws,
    read_texts,
    read_values,
    too_large,
)
from sparkscore.spec.scoring import InputPlan, Missing, Tensor

__all__ = ["ArrayEncoder", "byte_bounds"]

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Of one row, zeros aside: beyond 2^63 the product of a shape wraps in int64, to 0 for [2^32, 2^32].
_MOST_VALUES = 2**40


@dataclass(frozen=True)
class Spans:
    """Where each row's values lie in a column's innermost memory.

    `starts` and `ends` count values of `leaf` (bytes for a binary column). `lengths` holds one array a level of
    lists, outermost first. `uneven` rows have inner lists of several lengths, `hollow` rows a null inner list.
    """

    leaf: Any
    starts: Ints
    ends: Ints
    lengths: tuple[Ints, ...]
    uneven: Mask
    hollow: Mask


class ArrayEncoder:
    """Views one column as arrays of the tensor's dtype, one a row."""

    def __init__(self, part: Tensor, tensor: InputPlan) -> None:
        self.part = part
        self.name = part.columns[0]
        self.missing: Missing = part.missing
        self.dtype = np.dtype(object) if tensor.dtype == "str" else np.dtype(tensor.dtype)

    def encode(self, cells: Cells) -> Ragged:
        """Give the rows of a batch; rows of a wrong shape or with wrong values are marked.

        The arrays share the column's memory where the types agree and no null is filled.
        """
        column = cells.column(self.name)
        nulls = null_mask(column)
        refused = nulls if nulls is not None else np.zeros(len(column), dtype=np.bool_)
        spans = _spans(column)
        shapes, flaws = self._shapes(cells, spans, refused)
        if nulls is not None:
            flaws = [*self._null_flaws(nulls), *flaws]
        mark(cells, flaws)
        for flaw in flaws:
            refused = refused | flaw.mask
        flat, starts, flaws = self._values(cells, column, spans, ~refused)
        mark(cells, flaws)
        if nulls is not None and self.missing.null != "error" and None not in self.part.shape:
            flat, starts, shapes = self._filled(cells, flat, starts, shapes, nulls)
        return Ragged(flat, starts, shapes)

    # -- shapes ----------------------------------------------------------------------------------------

    def _shapes(self, cells: Cells, spans: Spans, nulls: Mask) -> tuple[Ints, list[Flaw]]:
        """Give the shape of each row, (n, rank), and the rows that cannot have one; a null row is not looked at."""
        rank = len(self.part.shape)
        itemsize = 1 if _is_bytes(spans.leaf) else _itemsize(spans.leaf)
        flaws = [too_large((spans.ends - spans.starts) * itemsize, self.missing, self.name)]
        if self.part.shape_column:
            shapes, wrong = self._declared(cells, spans)
            flaws += wrong
        elif len(spans.lengths) == rank and rank > 1:
            shapes = np.stack(spans.lengths, axis=1)
            flaws += self._nested_flaws(spans, shapes)
        else:
            shapes, wrong = self._flat(spans)
            flaws += wrong
        flaws = [Flaw(flaw.mask & ~nulls, flaw.code, flaw.message) for flaw in flaws]
        return shapes, [flaw for flaw in flaws if flaw.mask.any()]

    def _nested_flaws(self, spans: Spans, shapes: Ints) -> list[Flaw]:
        wanted = ", ".join("any" if d is None else str(d) for d in self.part.shape)
        wrong = spans.uneven | self._off(shapes)
        message = f"Expected an array of shape ({wanted}) in column {self.name!r}, got another shape or uneven lists"
        hollow = f"Expected lists without null lists in column {self.name!r}, got a null inside"
        return [Flaw(spans.hollow, "SPS-ROW-NULL", hollow), Flaw(wrong, "SPS-ROW-SHAPE", message)]

    def _flat(self, spans: Spans) -> tuple[Ints, list[Flaw]]:
        """Shape a flat run of values by the fixed dimensions; one free dimension takes what is left."""
        shape = self.part.shape
        unit = int(np.prod([d for d in shape if d is not None], dtype=np.int64))
        width = self.dtype.itemsize if _is_bytes(spans.leaf) else 1
        sizes = spans.ends - spans.starts
        noun = "bytes" if _is_bytes(spans.leaf) else "values"
        if None not in shape:
            shapes = np.tile(np.array(shape, dtype=np.int64), (len(sizes), 1))
            return shapes, self._size_flaws(sizes, sizes != unit * width, f"{unit * width} {noun}")
        shapes = np.stack([sizes // (unit * width) if d is None else np.full(len(sizes), d) for d in shape], axis=1)
        some = f"a multiple of {unit * width} {noun}"
        return shapes.astype(np.int64, copy=False), self._size_flaws(sizes, sizes % (unit * width) != 0, some)

    def _size_flaws(self, sizes: Ints, wrong: Mask, wanted: str) -> list[Flaw]:
        """Name each wrong size once, so that a message says what was there."""
        message = f"Expected {wanted} in column {self.name!r}, got "
        seen = np.unique(sizes[wrong])[:20]
        named = [Flaw(wrong & (sizes == size), "SPS-ROW-SHAPE", f"{message}{size}") for size in seen]
        return [*named, Flaw(wrong, "SPS-ROW-SHAPE", message + "another number")]

    def _declared(self, cells: Cells, spans: Spans) -> tuple[Ints, list[Flaw]]:
        """Read each row's shape from the shape column."""
        name, rank = str(self.part.shape_column), len(self.part.shape)
        column = cells.column(name)
        where = _spans(column)
        wrong = where.ends - where.starts != rank
        if column.null_count:
            wrong |= null_mask(column)
        shapes = np.zeros((len(column), rank), dtype=np.int64)
        good = np.flatnonzero(~wrong)
        values, flaws = read_values(where.leaf, np.dtype(np.int64), Missing(), name)
        shapes[good] = values[where.starts[good][:, None] + np.arange(rank)]
        width = self.dtype.itemsize if _is_bytes(spans.leaf) else 1
        wrong |= _over_rows(flaws, where.starts, where.ends) | (shapes < 0).any(axis=1) | self._off(shapes)
        wrong |= np.prod(np.maximum(shapes, 1), axis=1, dtype=np.float64) > _MOST_VALUES
        wrong |= np.prod(shapes, axis=1) * width != spans.ends - spans.starts
        message = f"Expected column {self.name!r} to have the shape that column {name!r} says, got another"
        return shapes, [Flaw(wrong, "SPS-ROW-SHAPE", message)]

    def _off(self, shapes: Ints) -> Mask:
        """Say which rows differ from the fixed dimensions."""
        off = np.zeros(len(shapes), dtype=np.bool_)
        for axis, d in enumerate(self.part.shape):
            if d is not None:
                off |= shapes[:, axis] != d
        return off

    # -- values ----------------------------------------------------------------------------------------

    def _null_flaws(self, nulls: Mask) -> list[Flaw]:
        if self.missing.null == "error":
            return [Flaw(nulls, "SPS-ROW-NULL", f"Expected a value in column {self.name!r}, got null")]
        if None in self.part.shape:
            message = f"Expected a value in column {self.name!r}, got null, which has no shape to be filled"
            return [Flaw(nulls, "SPS-ROW-NULL", message)]
        return []

    def _values(self, cells: Cells, column: pa.Array, spans: Spans, good: Mask) -> tuple[Any, Ints, list[Flaw]]:
        """Give the memory that the good rows lie in as one array, where each starts, and the rows with wrong values."""
        zeros = np.zeros(len(good), dtype=np.int64)
        if not good.any():
            return np.zeros(0, self.dtype), zeros, []
        low, high = int(spans.starts[good].min()), int(spans.ends[good].max())
        starts, ends = np.where(good, spans.starts - low, 0), np.where(good, spans.ends - low, 0)
        if _is_bytes(spans.leaf):
            if (starts % self.dtype.itemsize).any():
                return self._compacted(cells, column, good)
            starts, ends = starts // self.dtype.itemsize, ends // self.dtype.itemsize
            flat = self._numbers(cells, spans.leaf[low:high])
            flaws = number_flaws(flat, flat, self.missing, self.name)
        else:
            leaf = spans.leaf.slice(low, high - low)
            read = read_texts(leaf, self.missing, self.name) if is_text(leaf.type) else None
            flat, flaws = read or read_values(leaf, self.dtype, self.missing, self.name)
            if flat.dtype == object or flat.ctypes.data != _address(leaf):
                cells.tally.copied_bytes += flat.nbytes
        return flat, starts, [Flaw(_over_rows([f], starts, ends), f.code, f.message) for f in flaws]

    def _numbers(self, cells: Cells, raw: NDArray[np.uint8]) -> NDArray[Any]:
        """View little-endian bytes as numbers; memory that does not lie on the type's boundary is copied."""
        if self.dtype.kind == "b":
            return raw.astype(np.bool_)
        stored = raw.view(self.dtype.newbyteorder("<"))
        flat = np.require(stored.astype(self.dtype, copy=False), requirements="A")
        cells.tally.copied_bytes += 0 if np.shares_memory(flat, raw) else flat.nbytes
        return flat

    def _compacted(self, cells: Cells, column: pa.Array, good: Mask) -> tuple[Any, Ints, list[Flaw]]:
        """Copy the good rows together: a bad row of odd length leaves those behind it out of step."""
        rows = np.flatnonzero(good)
        kept = column.take(numbers(rows))
        cells.tally.copied_bytes += kept.nbytes
        flat, compact_starts, flaws = self._values(cells, kept, _spans(kept), np.ones(len(rows), dtype=np.bool_))
        starts = np.zeros(len(good), dtype=np.int64)
        starts[rows] = compact_starts
        spread = []
        for flaw in flaws:
            mask = np.zeros(len(good), dtype=np.bool_)
            mask[rows] = flaw.mask
            spread.append(Flaw(mask, flaw.code, flaw.message))
        return flat, starts, spread

    def _filled(
        self, cells: Cells, flat: NDArray[Any], starts: Ints, shapes: Ints, nulls: Mask
    ) -> tuple[NDArray[Any], Ints, Ints]:
        """Let null rows share one filled array behind the others."""
        shape = [d for d in self.part.shape if d is not None]
        fill = np.nan if self.missing.null == "nan" else self.missing.fill
        filled = np.concatenate([flat, np.full(int(np.prod(shape)), fill, dtype=self.dtype)])
        cells.tally.copied_bytes += filled.nbytes
        return filled, np.where(nulls, len(flat), starts), np.where(nulls[:, None], np.array(shape), shapes)


def _is_bytes(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray)


def _itemsize(leaf: pa.Array) -> int:
    return 1 if is_text(leaf.type) or pa.types.is_boolean(leaf.type) else int(leaf.type.bit_width) // 8


def _address(values: pa.Array) -> int:
    data = values.buffers()[1]
    itemsize = 0 if pa.types.is_boolean(values.type) else int(values.type.bit_width) // 8
    return 0 if data is None else int(data.address) + values.offset * itemsize


def _over_rows(flaws: list[Flaw], starts: Ints, ends: Ints) -> Mask:
    """Say which rows hold a flawed value: more flaws are counted before their end than before their start."""
    rows = np.zeros(len(starts), dtype=np.bool_)
    for flaw in flaws:
        before = np.concatenate([[0], np.cumsum(flaw.mask)])
        rows |= before[ends] > before[starts]
    return rows


def _spans(column: pa.Array) -> Spans:
    """Walk the levels of a list column, or the bytes of a binary one."""
    none = np.zeros(len(column), dtype=np.bool_)
    if not _is_list(column.type):
        starts, ends, leaf = byte_bounds(column)
        return Spans(leaf, starts, ends, (), none, none)
    starts, ends, child = _bounds(column)
    lengths, uneven, hollow = [ends - starts], none, none
    while _is_list(child.type):
        inner_starts, inner_ends, grandchild = _bounds(child)
        sizes = inner_ends - inner_starts
        full = np.flatnonzero(ends > starts)
        first, last = starts[full], ends[full] - 1
        changes = np.concatenate([[0], np.cumsum(sizes[1:] != sizes[:-1])])
        uneven = _set(uneven, full, changes[last] != changes[first])
        holes = null_mask(child)
        if holes is not None:
            before = np.concatenate([[0], np.cumsum(holes)])
            hollow = _set(hollow, full, before[last + 1] != before[first])
        lengths.append(_spread(len(column), full, sizes[first]))
        starts, ends = _spread(len(column), full, inner_starts[first]), _spread(len(column), full, inner_ends[last])
        child = grandchild
    return Spans(child, starts, ends, tuple(lengths), uneven, hollow)


def _set(mask: Mask, rows: Ints, values: Mask) -> Mask:
    mask = mask.copy()
    mask[rows] |= values
    return mask


def _spread(rows: int, where: Ints, values: Ints) -> Ints:
    spread = np.zeros(rows, dtype=np.int64)
    spread[where] = values
    return spread


def _is_list(data_type: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type))


def _bounds(lists: pa.Array) -> tuple[Ints, Ints, pa.Array]:
    """Give where each list starts and ends in the child array, as it is before any slice."""
    if pa.types.is_fixed_size_list(lists.type):
        starts = (lists.offset + np.arange(len(lists), dtype=np.int64)) * lists.type.list_size
        return starts, starts + lists.type.list_size, lists.values
    offsets = viewed(lists.offsets).astype(np.int64, copy=False)
    return offsets[:-1], offsets[1:], lists.values


def byte_bounds(column: pa.Array) -> tuple[Ints, Ints, NDArray[np.uint8]]:
    """Give where the bytes of each row start and end, and the memory that they lie in."""
    buffers = column.buffers()
    data = np.frombuffer(buffers[-1], np.uint8) if buffers[-1] is not None and len(column) else np.zeros(0, np.uint8)
    if pa.types.is_fixed_size_binary(column.type):
        starts = (column.offset + np.arange(len(column), dtype=np.int64)) * column.type.byte_width
        return starts, starts + column.type.byte_width, data
    wide = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    stored = np.frombuffer(buffers[1], wide, len(column) + 1, column.offset * np.dtype(wide).itemsize)
    offsets = stored.astype(np.int64, copy=False)
    return offsets[:-1], offsets[1:], data
