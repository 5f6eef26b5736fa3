"""What one entry of `inputs` says: which columns, how they are encoded, and what happens to values at the edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Tag, model_validator

from sparkscore.spec.fields import (
    TWO,
    Closed,
    Flag,
    Float,
    Positive,
    Range,
    Text,
    Uri,
    number_from_text,
    refused,
    without_credentials,
)


def _fill(value: Any) -> Any:
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    message = f"Expected a number, text, true or false, got {value!r}"
    raise refused("SPS-SPEC-VALUE", message, "Give one finite value; for NaN write `null: nan`.")


class Policy(Closed):
    """What happens to null, NaN and infinity; None leaves it to the pipeline's `missing`."""

    null: Literal["error", "nan", "fill"] | None = None
    fill: Annotated[bool | int | float | str | None, BeforeValidator(_fill)] = None
    nan: Literal["allow", "error"] | None = None
    inf: Literal["error", "allow"] | None = None


class Missing(Policy):
    """The pipeline's own policy, for entries that say nothing."""

    null: Literal["error", "nan", "fill"] = "error"
    nan: Literal["allow", "error"] = "allow"
    inf: Literal["error", "allow"] = "error"


class _Entry(Policy):
    range: Range | None = None
    max_bytes: Positive | None = None


class ColumnsEntry(_Entry):
    """Columns fed as they are: `column` names one, `columns` scalars packed side by side."""

    column: Text | None = None
    columns: tuple[Text, ...] = ()
    shape: tuple[Positive, ...] | None = None
    shape_column: Text | None = None

    @property
    def single(self) -> bool:
        """Whether one column was named by itself, so that it may hold lists or bytes."""
        return self.column is not None

    @classmethod
    def expanded(cls, value: Any) -> Any:
        """Write a bare name, or a bare list of names, out as a mapping."""
        if isinstance(value, str):
            return {"column": value}
        return {"columns": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, value: Any) -> Any:
        value = cls.expanded(value)
        if not isinstance(value, Mapping) or value.get("column") is None or not isinstance(value["column"], str):
            return value
        if tuple(value.get("columns") or (value["column"],)) != (value["column"],):
            raise refused("SPS-SPEC-VALUE", "Expected column or columns, got both", "Keep one of them.")
        return {**value, "columns": [value["column"]]}

    @model_validator(mode="after")
    def _named(self) -> ColumnsEntry:
        if not self.columns:
            raise refused("SPS-SPEC-VALUE", "Expected at least one column, got none", "Name a column.")
        if (self.shape or self.shape_column) and not self.single:
            fix = "Write `column:` with one list or binary column, or take the shape out."
            raise refused("SPS-SPEC-VALUE", "Expected a shape only beside `column`, got it beside `columns`", fix)
        if self.shape and self.shape_column:
            raise refused("SPS-SPEC-VALUE", "Expected shape or shape_column, got both", "Keep one of them.")
        return self


def _vocabulary(value: Any) -> Any:
    """Take integers as their text: a vocabulary of codes is often written without quotes."""
    if isinstance(value, str) and value:
        return without_credentials(value)
    if not isinstance(value, list | tuple) or not value:
        fix = "Write `vocabulary: [a, b]`, or the name of a file with one entry a line."
        raise refused("SPS-SPEC-VALUE", f"Expected a list of values or a file, got {value!r}", fix)
    entries = tuple(str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value)
    odd = [v for v in entries if not isinstance(v, str)] or [v for v in entries if entries.count(v) > 1]
    if odd:
        message = f"Expected different texts or integers, got {odd[0]!r}" + (" twice" if odd[0] in entries[1:] else "")
        raise refused("SPS-SPEC-VALUE", message, "Give each category once, in quotes where YAML reads it otherwise.")
    return entries


def _unknown(value: Any) -> Any:
    value = number_from_text(value)
    if value == "error" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    message = f"Expected 'error' or the index of unknown values, got {value!r}"
    raise refused("SPS-SPEC-VALUE", message, "Write `unknown: error` or, for example, `unknown: 0`.")


class CategoryEntry(_Entry):
    """One column looked up in a vocabulary, given inline or as a file (one entry a line)."""

    category: Text
    vocabulary: Annotated[tuple[str, ...] | str, BeforeValidator(_vocabulary)]
    unknown: Annotated[Literal["error"] | int, BeforeValidator(_unknown)] = "error"
    one_hot: Flag = False


class TextEntry(_Entry):
    """One text column, tokenised; `field` None means by the graph input's name."""

    text: Text
    tokenizer: Uri
    max_tokens: Positive = 512
    field: Literal["ids", "attention_mask", "type_ids"] | None = None
    overlong: Literal["cut", "error"] = "cut"


def _rgb(value: tuple[float, ...]) -> tuple[float, ...]:
    if len(value) not in (0, 3):
        raise refused("SPS-SPEC-VALUE", f"Expected three numbers (red, green, blue), got {len(value)}", "Give three.")
    return value


def _no_zero(value: tuple[float, ...]) -> tuple[float, ...]:
    if 0 in value:
        raise refused("SPS-SPEC-VALUE", "Expected numbers to divide by, got 0", "Give the deviations, not zero.")
    return value


_Rgb = Annotated[tuple[Float, ...], AfterValidator(_rgb)]


class ImageEntry(_Entry):
    """One binary column of encoded images, resized to (height, width): value = (pixel * scale - mean) / std."""

    image: Text
    size: Annotated[tuple[Positive, Positive], TWO]
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "float64", "uint8"] = "float32"
    scale: Float = 1.0
    mean: _Rgb = ()
    std: Annotated[_Rgb, AfterValidator(_no_zero)] = ()
    decode: Literal["full", "scaled"] = "full"


_KINDS: dict[str, type[_Entry]] = {
    "columns": ColumnsEntry,
    "category": CategoryEntry,
    "text": TextEntry,
    "image": ImageEntry,
}


def _kind(value: Any) -> str:
    """Name the entry's kind: by its main key, else by the class that knows most of its keys (for a good error)."""
    if isinstance(value, _Entry):
        return next(f"<{kind}>" for kind, cls in _KINDS.items() if isinstance(value, cls))
    keys = set(value) if isinstance(value, Mapping) else set()
    main = [kind for kind in _KINDS if kind in keys]
    kind = main[0] if main else max(_KINDS, key=lambda k: len(keys & set(_KINDS[k].model_fields)))
    return f"<{kind}>"


# Tags stand in angle brackets, so that they can be told from keys in the location of an error.
Entry = Annotated[
    Annotated[ColumnsEntry, Tag("<columns>")]
    | Annotated[CategoryEntry, Tag("<category>")]
    | Annotated[TextEntry, Tag("<text>")]
    | Annotated[ImageEntry, Tag("<image>")],
    Discriminator(_kind),
]


def _parts(value: Any) -> Any:
    """Give an input's entries as a list: one, or several for mixed packing."""
    entries = value if isinstance(value, list | tuple) else [value]
    odd = [v for v in entries if not isinstance(v, str | Mapping | _Entry) or not v]
    if odd or not entries:
        fix = "Write a column, a list of columns, or a mapping such as {column: a, null: nan}."
        raise refused("SPS-SPEC-VALUE", f"Expected column names or entries, got {(odd or [value])[0]!r}", fix)
    return [value] if all(isinstance(v, str) for v in entries) else entries


Parts = Annotated[tuple[Entry, ...], BeforeValidator(_parts)]
