"""The `inputs` of a pipeline and the columns of its source as the parts that feed each graph input, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa

from sparkscore.errors import error
from sparkscore.runtime.casts import cast, prepare_fix, type_text
from sparkscore.runtime.encoders.category import vocabulary, width
from sparkscore.runtime.encoders.text import load_tokenizer
from sparkscore.runtime.loading import TensorInfo
from sparkscore.runtime.models import PinnedModel
from sparkscore.spec.columns import Field, resolve
from sparkscore.spec.pipeline import CategoryEntry, ColumnsEntry, Entry, ImageEntry, Pipeline, TextEntry
from sparkscore.spec.scoring import Category, Image, InputPlan, Missing, Numbers, Part, Tensor, Text

__all__ = ["BoundInput", "Columns", "bind_input", "shape_text"]

_TEXT_FIELDS: dict[str, Literal["ids", "attention_mask", "type_ids"]] = {
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
}


class Columns:
    """The columns of the prepared source, by reference."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.fields = tuple(_field(f) for f in schema)

    def name(self, reference: str) -> str:
        """Give the name that the plan uses: the column's own; for a field of a struct, the reference as written."""
        path = resolve(reference, self.fields)
        return reference if len(path) > 1 else path[0]

    def type(self, reference: str) -> pa.DataType:
        """Give the type of the column that a reference means; of a dictionary-encoded column, its values'."""
        path = resolve(reference, self.fields)
        found = self.schema.field(self.schema.get_all_field_indices(path[0])[0]).type
        for name in path[1:]:
            found = found.field(name).type
        return found.value_type if pa.types.is_dictionary(found) else found


@dataclass
class BoundInput:
    """A graph input with its parts; `batch_axis` False when the graph takes one row without an axis for rows."""

    plan: InputPlan
    batch_axis: bool
    narrowing: list[str] = field(default_factory=list)


def bind_input(
    tensor: TensorInfo, entries: tuple[Entry, ...], pipeline: Pipeline, model: PinnedModel, columns: Columns
) -> BoundInput:
    """Bind the entries of one graph input.

    Raises
    ------
    SpecError
        SPS-SPEC-COLUMN, SPS-SPEC-TYPE, SPS-SPEC-INPUT or SPS-SPEC-VALUE.
    ModelError
        SPS-MODEL-ENCODER: an encoder's file cannot be used.
    """
    return _Binder(tensor, pipeline, model, columns).bind(entries)


def shape_text(tensor: TensorInfo) -> str:
    """Write a tensor as ``float32 (n, 30)``, with ? for free dimensions after the first."""
    axes = ["n" if d is None and i == 0 else "?" if d is None else str(d) for i, d in enumerate(tensor.shape)]
    return f"{tensor.dtype} ({', '.join(axes)})" if axes else f"{tensor.dtype} of undeclared shape"


class _Binder:
    """Binds the entries of one graph input; keeps what all its refusals say."""

    def __init__(self, tensor: TensorInfo, pipeline: Pipeline, model: PinnedModel, columns: Columns) -> None:
        self.tensor = tensor
        self.dtype = tensor.dtype
        self.pipeline = pipeline
        self.model = model
        self.columns = columns
        self.narrowing: list[str] = []

    def bind(self, entries: tuple[Entry, ...]) -> BoundInput:
        if not self.tensor.shape:
            message = f"Input {self.tensor.name!r} of the model declares no shape, or is a single number"
            fix = "Export the model with a shape such as (batch, features) on its inputs."
            raise error("SPS-MODEL-TYPE", f"{message}.", fix, input=self.tensor.name)
        kinds: dict[type, Callable[[Any], Part]] = {
            ColumnsEntry: self._columns,
            CategoryEntry: self._category,
            TextEntry: self._text,
            ImageEntry: self._image,
        }
        if len(entries) > 1:
            self._only_scalars(entries)
        parts = _merged([kinds[type(entry)](entry) for entry in entries])
        batch_axis = self._rank(parts) != len(self.tensor.shape) or None in self.tensor.shape
        row_shape = self.tensor.shape[1:] if batch_axis else self.tensor.shape
        parts = tuple(self._shaped(part, row_shape) for part in parts)
        self._fits(parts, row_shape)
        plan = InputPlan(self.tensor.name, self.dtype, row_shape, parts)
        return BoundInput(plan, batch_axis, self.narrowing)

    # -- kinds of entries ------------------------------------------------------------------------------

    def _columns(self, entry: ColumnsEntry) -> Part:
        first = self.columns.type(entry.columns[0])
        if len(entry.columns) == 1 and (_is_list(first) or _is_bytes(first)):
            return self._array(entry, first)
        for reference in entry.columns:
            self._castable(reference, self.columns.type(reference))
        if entry.shape or entry.shape_column:
            self._refuse("SPS-SPEC-TYPE", entry.columns[0], "a shape is for lists and bytes", "Take the shape out.")
        names = tuple(self.columns.name(r) for r in entry.columns)
        return Numbers(names, self._missing(entry, text=self.dtype == "str"))

    def _array(self, entry: ColumnsEntry, found: pa.DataType) -> Tensor:
        """Bind a list or binary column; `_shaped` adds the row shape later, unless the entry declares one."""
        reference = entry.columns[0]
        inner = found
        while _is_list(inner):
            inner = inner.value_type
        if _is_bytes(found) and self.dtype == "str":
            self._refuse("SPS-SPEC-TYPE", reference, "bytes hold numbers only", prepare_fix(reference, found, "str"))
        if _is_list(found):
            self._castable(reference, inner)
        shape_column = None
        if entry.shape_column:
            shape_column, shape_type = self.columns.name(entry.shape_column), self.columns.type(entry.shape_column)
            if not _is_list(shape_type) or not pa.types.is_integer(shape_type.value_type):
                fix = prepare_fix(entry.shape_column, pa.list_(pa.int32()), "int32")
                self._refuse("SPS-SPEC-TYPE", entry.shape_column, "shape_column holds lists of integers", fix)
        missing = self._missing(entry, text=self.dtype == "str")
        return Tensor((self.columns.name(reference),), missing, tuple(entry.shape or ()), shape_column)

    def _category(self, entry: CategoryEntry) -> Category:
        found = self.columns.type(entry.category)
        if not (_is_text(found) or pa.types.is_integer(found)):
            fix = prepare_fix(entry.category, found, "str")
            self._refuse("SPS-SPEC-TYPE", entry.category, "a category is text or an integer", fix)
        if self.dtype in ("str", "bool"):
            fix = "Feed the column as it is, without `category`."
            self._refuse("SPS-SPEC-TYPE", entry.category, "a category gives indices", fix)
        inline = () if isinstance(entry.vocabulary, str) else tuple(entry.vocabulary)
        file = self.model.encoder_paths[entry.vocabulary] if isinstance(entry.vocabulary, str) else None
        unknown = None if entry.unknown == "error" else int(entry.unknown)
        missing = self._missing(entry, text=True, nan=self.dtype.startswith("float") and not entry.one_hot)
        name = (self.columns.name(entry.category),)
        part = Category(name, missing, inline, file, unknown, entry.one_hot)
        entries = vocabulary(part, self.model.folder)
        largest = 1 if entry.one_hot else max(len(entries) - 1, unknown or 0)
        if not self.dtype.startswith("float") and largest > np.iinfo(self.dtype).max:
            fix = "Shorten the vocabulary, or export the model with a wider type."
            self._refuse("SPS-SPEC-TYPE", entry.category, f"{self.dtype} does not hold the index {largest}", fix)
        if missing.null == "fill" and str(missing.fill) not in entries and unknown is None:
            fix = "Fill with one of the vocabulary's entries, or set `unknown` to an index."
            self._refuse("SPS-SPEC-VALUE", entry.category, f"the vocabulary lacks fill {missing.fill!r}", fix)
        return part

    def _text(self, entry: TextEntry) -> Text:
        found = self.columns.type(entry.text)
        if not _is_text(found):
            fix = prepare_fix(entry.text, found, "str")
            self._refuse("SPS-SPEC-TYPE", entry.text, "a tokenizer reads text", fix)
        if self.dtype not in ("int64", "int32"):
            fix = "Feed it from another column; token ids need an int64 or int32 input."
            self._refuse("SPS-SPEC-TYPE", entry.text, "tokens are integers", fix)
        tokenizer = self.model.encoder_paths[entry.tokenizer]
        load_tokenizer(self.model.folder / tokenizer, entry.max_tokens)
        length = self.tensor.shape[-1]
        if len(self.tensor.shape) == 2 and length is not None and length < entry.max_tokens:
            fix = f"Set max_tokens: {length}."
            self._refuse("SPS-SPEC-INPUT", entry.text, f"{entry.max_tokens} tokens do not fit", fix)
        return Text(
            columns=(self.columns.name(entry.text),),
            missing=self._missing(entry, text=True),
            tokenizer=tokenizer,
            max_tokens=entry.max_tokens,
            field=entry.field or _TEXT_FIELDS.get(self.tensor.name, "ids"),
            overlong=entry.overlong,
        )

    def _image(self, entry: ImageEntry) -> Image:
        found = self.columns.type(entry.image)
        if not _is_bytes(found):
            fix = "Give the column that holds the encoded image (JPEG, PNG …) as bytes."
            self._refuse("SPS-SPEC-TYPE", entry.image, "an image is decoded from binary", fix)
        if entry.dtype != self.dtype:
            self._refuse("SPS-SPEC-TYPE", entry.image, f"the entry gives {entry.dtype}", f"Set dtype: {self.dtype}.")
        if entry.dtype == "uint8" and (entry.scale != 1.0 or entry.mean or entry.std):
            fix = "Take scale, mean and std out: a graph that takes uint8 scales the pixels itself."
            self._refuse("SPS-SPEC-VALUE", entry.image, "scaled pixels are no uint8", fix)
        missing = self._missing(entry, text=True, fill=False)
        name = (self.columns.name(entry.image),)
        how = (entry.size, entry.layout, entry.dtype, entry.scale, entry.mean, entry.std, entry.decode)
        return Image(name, missing, *how)

    # -- checks ----------------------------------------------------------------------------------------

    def _castable(self, reference: str, found: pa.DataType) -> None:
        """Refuse a column whose values cannot feed the tensor, and note those that lose precision."""
        kind = cast(found, self.dtype)
        whole = self.columns.type(reference)
        if kind == "refused":
            fix = prepare_fix(reference, whole, self.dtype)
            if pa.types.is_struct(found):
                fix = f"Name a field of it: {', '.join(f'{reference}.{f.name}' for f in found)}."
            elif _is_list(found) or _is_bytes(found):
                fix = "Feed a list or binary column alone, as {column: …}."
            elif _is_text(found) and self.dtype != "bool":
                fix += f" Or look it up in a vocabulary: {{category: {reference}, vocabulary: […]}}."
            self._refuse("SPS-SPEC-TYPE", reference, "its values are of another kind", fix)
        if kind == "narrowing":
            was = type_text(whole)
            self.narrowing.append(f"column {reference!r} ({was}) feeds input {self.tensor.name!r} as {self.dtype}")

    def _missing(self, entry: Any, *, text: bool, nan: bool | None = None, fill: bool = True) -> Missing:
        """Join the entry's policies with the pipeline's, and refuse those that its type cannot have."""
        default, column = self.pipeline.missing, _reference(entry)
        null, value = entry.null or default.null, default.fill if entry.fill is None else entry.fill
        nan = self.dtype.startswith("float") if nan is None and not text else bool(nan)
        hint = "" if entry.null is not None else " (from `missing`)"
        if (null == "nan" and not nan) or (null == "fill" and not fill):
            why = f"null: {null}{hint} does not go with this input"
            self._refuse("SPS-SPEC-VALUE", column, why, "Give this entry its own policy, such as `null: error`.")
        if null == "fill" and not self._fillable(value, text):
            why = f"fill: {value!r}{hint} does not fit"
            self._refuse("SPS-SPEC-VALUE", column, why, f"Give a fill of type {'text' if text else self.dtype}.")
        if entry.range is not None and (text or self.dtype == "bool"):
            self._refuse("SPS-SPEC-VALUE", column, "a range is for numbers", "Take the range out.")
        limits = {} if entry.max_bytes is None else {"max_bytes": entry.max_bytes}
        value = value if null == "fill" else None
        return Missing(null, entry.nan or default.nan, entry.inf or default.inf, value, entry.range, **limits)

    def _fillable(self, value: object, text: bool) -> bool:
        if text:
            return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))
        if self.dtype == "bool" or isinstance(value, bool):
            return isinstance(value, bool)
        if not isinstance(value, int | float):
            return False
        if self.dtype.startswith("float"):
            return bool(abs(value) <= float(np.finfo(self.dtype).max))
        return float(value).is_integer() and np.iinfo(self.dtype).min <= value <= np.iinfo(self.dtype).max

    def _only_scalars(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            found = self.columns.type(_reference(entry))
            if isinstance(entry, TextEntry | ImageEntry) or _is_list(found) or _is_bytes(found):
                fix = "Feed it to an input of its own, or write its values as columns in `prepare`."
                self._refuse("SPS-SPEC-TYPE", _reference(entry), "only single values are packed side by side", fix)

    # -- shapes ----------------------------------------------------------------------------------------

    def _rank(self, parts: tuple[Part, ...]) -> int:
        """Say how many axes a row of the parts has by itself."""
        part = parts[0]
        if isinstance(part, Image):
            return 3
        if isinstance(part, Text):
            return 1
        if not isinstance(part, Tensor):
            return 1 if self._width(parts) > 1 or len(self.tensor.shape) == 2 else 0
        depth = _depth(self.columns.type(part.columns[0]))
        if part.shape or depth > 1:
            return len(part.shape) or depth
        return max(1, len(self.tensor.shape) - 1)

    def _width(self, parts: tuple[Part, ...]) -> int:
        widths = [
            width(p, vocabulary(p, self.model.folder)) if isinstance(p, Category) else len(p.columns) for p in parts
        ]
        return sum(widths)

    def _shaped(self, part: Part, row_shape: tuple[int | None, ...]) -> Part:
        """Give an array column its row shape: what the entry declares, filled with the graph's fixed dimensions."""
        if not isinstance(part, Tensor):
            return part
        reference = part.columns[0]
        depth = _depth(self.columns.type(reference))
        if depth > 1 and depth != len(row_shape):
            why = f"lists of depth {depth} give {depth + 1} axes with the rows"
            fix = f"Give a column of depth {len(row_shape)}, or a flat list with `shape`."
            self._refuse("SPS-SPEC-TYPE", reference, why, fix)
        if not row_shape:
            fix = "Give a column of single values, or another input."
            self._refuse("SPS-SPEC-TYPE", reference, "it wants one value a row", fix)
        if part.shape:
            clash = any(d is not None and d != s for d, s in zip(row_shape, part.shape, strict=False))
            if len(part.shape) != len(row_shape) or clash:
                why = f"the declared shape is ({', '.join(map(str, part.shape))})"
                self._refuse("SPS-SPEC-INPUT", reference, why, "Declare the shape that the graph wants.")
            return part
        if depth <= 1 and row_shape.count(None) > 1 and part.shape_column is None:
            why = "flat values do not say how long each of its free axes is"
            self._refuse("SPS-SPEC-INPUT", reference, why, "Declare `shape: […]`, or `shape_column: …`.")
        return Tensor(part.columns, part.missing, row_shape, part.shape_column)

    def _fits(self, parts: tuple[Part, ...], row_shape: tuple[int | None, ...]) -> None:
        part = parts[0]
        if isinstance(part, Tensor):
            return
        given: tuple[int | None, ...]
        if isinstance(part, Text):
            given = row_shape if len(row_shape) == 1 else (None,)
            what = f"tokens of column {part.columns[0]!r}, (n, tokens)"
        elif isinstance(part, Image):
            given = (3, *part.size) if part.layout == "nchw" else (*part.size, 3)
            what = f"images of column {part.columns[0]!r} as (n, {', '.join(map(str, given))})"
        else:
            count = self._width(parts)
            given = () if count == 1 and row_shape == () else (count,)
            what = f"{count} column{'s' if count > 1 else ''} ({_some([c for p in parts for c in p.columns])})"
        if len(given) != len(row_shape) or any(r not in (None, g) for g, r in zip(given, row_shape, strict=True)):
            fix = f"Give what the graph wants in inputs.{self.tensor.name}, or score with the model made for it."
            message = f"Input {self.tensor.name!r} of the model wants {shape_text(self.tensor)}. Got {what}."
            raise error("SPS-SPEC-INPUT", message, fix, input=self.tensor.name)

    def _refuse(self, code: str, reference: str, why: str, fix: str) -> NoReturn:
        got = f"Got column {reference!r}: {type_text(self.columns.type(reference))}; {why}."
        message = f"Input {self.tensor.name!r} of the model wants {shape_text(self.tensor)}. {got}"
        raise error(code, message, fix, input=self.tensor.name)


def _merged(parts: list[Part]) -> tuple[Part, ...]:
    """Join neighbouring scalar columns of one policy, so that they are packed in one pass."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(last, Numbers) and isinstance(part, Numbers) and last.missing == part.missing:
            merged[-1] = Numbers(last.columns + part.columns, part.missing)
        else:
            merged.append(part)
    return tuple(merged)


def _reference(entry: Any) -> str:
    names = ("category", "text", "image")
    return str(next((getattr(entry, name) for name in names if hasattr(entry, name)), None) or entry.columns[0])


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def _field(found: pa.Field) -> Field:
    children = found.type if pa.types.is_struct(found.type) else ()
    return Field(found.name, tuple(_field(child) for child in children))


def _depth(found: pa.DataType) -> int:
    return 1 + _depth(found.value_type) if _is_list(found) else 0


def _is_list(found: pa.DataType) -> bool:
    return bool(pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found))


def _is_bytes(found: pa.DataType) -> bool:
    return str(found) in ("binary", "large_binary", "binary_view") or bool(pa.types.is_fixed_size_binary(found))


def _is_text(found: pa.DataType) -> bool:
    return str(found) in ("string", "large_string", "string_view")
