"""Arrow columns as numpy tensors: viewed where the memory allows it, copied once where not, and every value checked.

Clean data costs a few passes over packed memory; only when a pass finds something is each column looked at closely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray

from sparkscore.runtime.arrow import mask_of, numbers, viewed, without_views
from sparkscore.runtime.faults import Faults
from sparkscore.spec.scoring import Missing

__all__ = [
    "Cells",
    "Flaw",
    "Ragged",
    "Tally",
    "is_text",
    "mark",
    "null_mask",
    "number_flaws",
    "pack",
    "pack_texts",
    "read_texts",
    "read_values",
    "too_large",
]


_TURNED_COLUMNS = 8
_TURNED_ROWS = 2000  # no power of two: columns that far apart would share the lines of the cache


@dataclass
class Tally:
    """What encoding costs, and the memory for its copies: ``new(shape, dtype)`` gives an array of any content."""

    new: Callable[[tuple[int, ...], DTypeLike], NDArray[Any]] = np.empty
    copied_bytes: int = 0
    rows_truncated: int = 0
    tokens: int = 0
    tokens_computed: int = 0  # with the padding

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Give memory for a copy, which counts."""
        block = self.new(shape, dtype)
        self.copied_bytes += block.nbytes
        return block

    @property
    def costs(self) -> dict[str, int]:
        """What was counted, by name."""
        return {name: cost for name, cost in vars(self).items() if name != "new"}


@dataclass
class Cells:
    """One batch on its way into tensors, with the faults found so far; `memo` keeps what several inputs share."""

    batch: pa.RecordBatch
    faults: Faults
    tally: Tally
    memo: dict[object, Any] = field(default_factory=dict)

    def column(self, name: str) -> pa.Array:
        """Give a column, with dictionaries decoded and string or binary views made plain."""
        column = self.batch.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return without_views(column)


@dataclass(frozen=True)
class Flaw:
    """Values that break a rule: a mask over the values that were looked at, the row code, and the message."""

    mask: NDArray[np.bool_]
    code: str
    message: str

    @property
    def stage(self) -> str:
        """The stage that the row failed in."""
        return "decode" if self.code == "SPS-ROW-DECODE" else "pre"


@dataclass(frozen=True)
class Ragged:
    """One array a row, cut out of flat memory.

    `flat` is 1-D; row i is ``flat[starts[i] : starts[i] + prod(shapes[i])]`` with the shape ``shapes[i]``.
    """

    flat: NDArray[Any]
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]

    def dense(self, rows: NDArray[np.int64], tally: Tally) -> NDArray[Any]:
        """Give the rows, all of one shape, as one array: a view where they lie side by side, else a counted copy."""
        shape: tuple[int, ...] = tuple(self.shapes[rows[0]].tolist())
        size = int(np.prod(shape))
        starts = self.starts[rows]
        if (starts == starts[0] + np.arange(len(rows)) * size).all():
            return self.flat[starts[0] : starts[0] + len(rows) * size].reshape(len(rows), *shape)
        gathered = np.take(self.flat, starts[:, None] + np.arange(size)).reshape(len(rows), *shape)
        tally.copied_bytes += gathered.nbytes
        return gathered


def is_text(data_type: pa.DataType) -> bool:
    """Say whether a type is one of Arrow's string types."""
    return bool(pa.types.is_string(data_type) or pa.types.is_large_string(data_type))


def null_mask(values: pa.Array) -> NDArray[np.bool_] | None:
    """Give which values are null, or None when none is (known without a look at the values)."""
    if not values.null_count:
        return None
    return mask_of(values.is_null())


def mark(cells: Cells, flaws: Sequence[Flaw]) -> None:
    """Mark the rows of flaws whose masks are over rows."""
    for flaw in flaws:
        cells.faults.add(flaw.mask, flaw.code, flaw.message, flaw.stage)


def pack(cells: Cells, names: Sequence[str], dtype: np.dtype[Any], missing: Missing) -> NDArray[Any]:
    """Pack scalar columns side by side, and mark the rows that break a rule.

    Parameters
    ----------
    names : sequence of str
        Number or bool columns of the batch.
    dtype : numpy dtype
        The tensor's.

    Returns
    -------
    ndarray of `dtype`, shape (n, len(names))
        A view for one clean column of the same type, else one copy. Marked rows hold anything.
    """
    packed, unseen = _packed_at_once(cells, names, dtype) if missing.range is None else None, list(names)
    if packed is None:
        columns: list[Any] = []
        target, unseen = pa.from_numpy_dtype(dtype), []
        for name in names:
            column = cells.column(name)
            if column.type == target and not column.null_count and missing.range is None:
                unseen.append(name)
                columns.append(column)
            else:
                array, flaws = read_values(column, dtype, missing, name)
                mark(cells, flaws)
                cells.tally.copied_bytes += array.nbytes
                columns.append(array)
        packed = _side_by_side(cells, columns, dtype)
    block, is_finite = packed
    if unseen and not is_finite and _has_float_rules(missing):
        for name in unseen:
            mark(cells, read_values(cells.column(name), dtype, missing, name)[1])
    return block


def pack_texts(cells: Cells, names: Sequence[str], missing: Missing) -> NDArray[Any]:
    """Pack string columns side by side for a string tensor: ndarray of object (str), shape (n, len(names))."""
    block = np.empty((cells.batch.num_rows, len(names)), dtype=object)
    for i, name in enumerate(names):
        block[:, i], flaws = read_texts(cells.column(name), missing, name)
        mark(cells, flaws)
    cells.tally.copied_bytes += block.nbytes
    return block


def read_values(values: pa.Array, dtype: np.dtype[Any], missing: Missing, name: str) -> tuple[NDArray[Any], list[Flaw]]:
    """Cast numbers to the tensor's type, apply the policy of nulls, and find the values that break a rule.

    Parameters
    ----------
    values : Array of numbers, decimals or bools, length m
    dtype : numpy dtype
    missing : Missing
    name : str
        The column, for messages.

    Returns
    -------
    array : ndarray of `dtype`, shape (m,)
        A view where the type is the same and nothing is null.
    flaws : list of Flaw
        The first rule that a value breaks comes first.
    """
    nulls = null_mask(values)
    source = _stored(values)
    if nulls is not None:
        source = np.where(nulls, source.dtype.type(0), source)  # a null's memory holds anything
    with np.errstate(over="ignore", invalid="ignore"):
        array = source.astype(dtype, copy=False)
    flaws = number_flaws(source, array, missing, name)
    if nulls is not None:
        flaws = [Flaw(flaw.mask & ~nulls, flaw.code, flaw.message) for flaw in flaws]
        flaws = _null_flaws(nulls, missing, name) + flaws
        if missing.null != "error":
            array[nulls] = np.nan if missing.null == "nan" else missing.fill
    return array, flaws


def read_texts(values: pa.Array, missing: Missing, name: str) -> tuple[NDArray[Any], list[Flaw]]:
    """Give strings as ndarray of object (str), shape (m,), with the policy of nulls applied, and their flaws."""
    nulls = null_mask(values)
    flaws = _null_flaws(nulls, missing, name) if nulls is not None else []
    if values.nbytes > missing.max_bytes:
        sizes = viewed(pc.binary_length(values)).copy()
        if nulls is not None:
            sizes[nulls] = 0
        flaws.append(too_large(sizes, missing, name))
    try:
        array = _objects(values.to_pylist())
    except (UnicodeDecodeError, pa.ArrowException):  # the former by pyarrow's Python paths, the latter by its C++ ones
        texts = [_decoded(raw) for raw in values.cast(_binary_like(values.type)).to_pylist()]
        array = np.array([text or "" for text in texts], dtype=object)
        broken = np.array([text is None for text in texts])
        message = f"Expected UTF-8 text in column {name!r}, got bytes that are not"
        flaws.append(Flaw(broken if nulls is None else broken & ~nulls, "SPS-ROW-DECODE", message))
    if nulls is not None:
        array[nulls] = str(missing.fill) if missing.null == "fill" else ""
    return array, flaws


def too_large(sizes_bytes: NDArray[Any], missing: Missing, name: str) -> Flaw:
    """Find the cells that are larger than the policy allows."""
    message = f"Expected at most {missing.max_bytes} bytes in a cell of column {name!r}, got more"
    return Flaw(sizes_bytes > missing.max_bytes, "SPS-ROW-BYTES", message)


def _null_flaws(nulls: NDArray[np.bool_], missing: Missing, name: str) -> list[Flaw]:
    if missing.null != "error":
        return []
    return [Flaw(nulls, "SPS-ROW-NULL", f"Expected a value in column {name!r}, got null")]


def _has_float_rules(missing: Missing) -> bool:
    return missing.nan == "error" or missing.inf == "error"


def number_flaws(source: NDArray[Any], array: NDArray[Any], missing: Missing, name: str) -> list[Flaw]:
    """Find NaN, infinities, values that the cast from `source` to `array` lost, and values outside the range."""
    flaws = []
    if array.dtype.kind == "f":
        narrower = not np.can_cast(source.dtype, array.dtype)
        if (narrower or _has_float_rules(missing)) and not np.isfinite(array).all():
            flaws = _float_flaws(source, array, missing, name)
    elif array.dtype.kind in "iu" and not np.can_cast(source.dtype, array.dtype):
        held, wanted = np.iinfo(source.dtype), np.iinfo(array.dtype)
        outside = (source < max(held.min, wanted.min)) | (source > min(held.max, wanted.max))
        flaws.append(_unfit(outside, array.dtype, name))
    if missing.range is not None:
        low, high = missing.range
        outside = np.zeros(source.shape, dtype=np.bool_)
        if low is not None:
            outside |= source < low
        if high is not None:
            outside |= source > high
        wanted_text = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
        message = f"Expected a value within {wanted_text} in column {name!r}, got one outside"
        flaws.append(Flaw(outside, "SPS-ROW-RANGE", message))
    return [flaw for flaw in flaws if flaw.mask.any()]


def _float_flaws(source: NDArray[Any], array: NDArray[Any], missing: Missing, name: str) -> list[Flaw]:
    flaws = [_unfit(~np.isfinite(array) & np.isfinite(source), array.dtype, name)]
    if source.dtype.kind == "f" and missing.nan == "error":
        message = f"Expected a number in column {name!r}, got NaN"
        flaws.append(Flaw(np.isnan(source), "SPS-ROW-NAN", message))
    if source.dtype.kind == "f" and missing.inf == "error":
        message = f"Expected a finite number in column {name!r}, got infinity"
        flaws.append(Flaw(np.isinf(source), "SPS-ROW-INF", message))
    return flaws


def _unfit(mask: NDArray[np.bool_], dtype: np.dtype[Any], name: str) -> Flaw:
    return Flaw(mask, "SPS-ROW-RANGE", f"Expected a value in column {name!r} that fits {dtype}, got one that does not")


def _stored(values: pa.Array) -> NDArray[Any]:
    """View numbers as they are stored; bools and decimals, which numpy cannot view, are cast."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    elif pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    return viewed(values)


def _objects(texts: list[str | None]) -> NDArray[Any]:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _has_to_tensor() -> bool:
    """Say whether this pyarrow packs columns row by row itself: `RecordBatch.to_tensor(row_major=True)`, from 17."""
    try:
        column = numbers(np.zeros(1))
        pa.RecordBatch.from_arrays([column, column], names=["a", "b"]).to_tensor(row_major=True)
    except (AttributeError, TypeError):
        return False
    return True


_TO_TENSOR = _has_to_tensor()


@cache
def _schema(names: tuple[str, ...], dtype: np.dtype[Any]) -> pa.Schema:
    return pa.schema([pa.field(name, pa.from_numpy_dtype(dtype)) for name in names])


def _packed_at_once(cells: Cells, names: Sequence[str], dtype: np.dtype[Any]) -> tuple[NDArray[Any], bool] | None:
    """Pack columns that all hold the tensor's type and no null by one call; None where they do not."""
    if not _TO_TENSOR or dtype.kind not in "iuf" or len(names) < 2:
        return None
    chosen = cells.batch.select(list(names))
    if not chosen.schema.equals(_schema(tuple(names), dtype)):
        return None
    try:
        return _row_by_row(chosen, dtype, cells.tally)
    except pa.ArrowException:  # there is a null
        return None


def _row_by_row(batch: pa.RecordBatch, dtype: np.dtype[Any], tally: Tally) -> tuple[NDArray[Any], bool]:
    """Lay out columns of one type row by row: (n, columns), and say whether all is finite. A null raises.

    Arrow writes a column at a time, which goes through memory once for each: few columns do no harm. More are laid
    end to end, some rows at a time, and turned in the cache (30 float32: 22 CPU ns a row; 44 by Arrow for 8,192 rows,
    112 for 65,536; docs/decisions/0035).
    """
    if batch.num_columns < _TURNED_COLUMNS:
        whole: NDArray[Any] = batch.to_tensor(row_major=True).to_numpy()
        tally.copied_bytes += whole.nbytes
        return whole, _is_finite(whole)
    block, is_finite = tally.new((batch.num_rows, batch.num_columns), dtype), True
    for start in range(0, batch.num_rows, _TURNED_ROWS):
        columns = batch.slice(start, _TURNED_ROWS).to_tensor(row_major=False).to_numpy()
        block[start : start + len(columns)] = columns
        is_finite = is_finite and _is_finite(columns)
    tally.copied_bytes += block.nbytes
    return block, is_finite


def _is_finite(values: NDArray[Any]) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _side_by_side(cells: Cells, columns: Sequence[Any], dtype: np.dtype[Any]) -> tuple[NDArray[Any], bool]:
    """Lay columns of one type, without nulls, side by side: (n, len(columns)), and say whether all is finite."""
    rows = cells.batch.num_rows
    if len(columns) == 1:
        one = _viewed(columns[0], dtype).reshape(rows, 1)
        return one, _is_finite(one)
    if _TO_TENSOR and dtype.kind in "iuf":
        arrays = [c if isinstance(c, pa.Array) else numbers(c) for c in columns]
        packed = pa.RecordBatch.from_arrays(arrays, names=[str(i) for i in range(len(arrays))])
        return _row_by_row(packed, dtype, cells.tally)
    block = cells.tally.empty((rows, len(columns)), dtype)
    for i, column in enumerate(columns):
        block[:, i] = _viewed(column, dtype)
    return block, _is_finite(block)


def _viewed(column: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    return _stored(column).astype(dtype, copy=False) if isinstance(column, pa.Array) else column


def _binary_like(data_type: pa.DataType) -> pa.DataType:
    return pa.large_binary() if pa.types.is_large_string(data_type) else pa.binary()


def _decoded(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None
