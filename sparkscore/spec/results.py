"""What one entry of `outputs` says, and how many bad rows a run bears and where they go."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sparkscore.spec.fields import (
    Closed,
    Count,
    Flag,
    Fraction,
    Place,
    Positive,
    Range,
    Seconds,
    Text,
    near,
    number_from_text,
    refused,
    without_credentials,
)

_SHORT = re.compile(r"(?P<output>[A-Za-z_][A-Za-z0-9_.]*)\s*(?P<index>\[.*\])?")
_AXIS = r"\s*(?:-?\d+|-?\d*\s*:\s*-?\d*(?:\s*:\s*-?[1-9]\d*|\s*:)?)\s*"
_INDEX = re.compile(rf"\[\s*:\s*(?:,{_AXIS})*,?\s*\]")


def _index(value: Any) -> Any:
    if isinstance(value, str) and not _INDEX.fullmatch(value):
        message = f"Expected a numpy index of integers and slices whose first axis is ':', got {value!r}"
        raise refused("SPS-SPEC-VALUE", message, "Write, for example, '[:, 1]' or '[:, 0, 2:5]'.")
    return value


Index = Annotated[Text, BeforeValidator(_index)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(v) for v in value)


def _is_labels(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list | tuple) and bool(texts) and all(isinstance(v, str) and v for v in texts)


# Steps after an output: what the argument must be, in words and as a test; None for a step without one.
STEPS: dict[str, tuple[str, Callable[[Any], bool]] | None] = {
    "softmax": None,
    "sigmoid": None,
    "argmax": None,
    "mean_pool": None,
    "cls_pool": None,
    "l2_normalize": None,
    "top_k": ("a whole number of 1 or more", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1),
    "labels": ("a file or a list of texts", _is_labels),
    "threshold": ("a number", _is_number),
    "affine": ("two numbers [a, b]", _is_pair),
    "clip": ("two numbers [low, high] with low <= high", lambda v: _is_pair(v) and v[0] <= v[1]),
    "index": ("a numpy index such as '[:, 1]'", lambda v: isinstance(v, str) and bool(_INDEX.fullmatch(v))),
}


def _step(value: Any) -> tuple[str, object]:
    """Read `softmax` or `{top_k: 5}` as (name, argument)."""
    if isinstance(value, Mapping) and len(value) == 1:
        value = next(iter(value.items()))
    name, argument = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if not isinstance(name, str) or name not in STEPS:
        message = f"Expected a step ({', '.join(STEPS)}), got {name!r}"
        raise refused("SPS-SPEC-VALUE", message, near(str(name), STEPS) + "Write `softmax`, or `{top_k: 5}`.")
    argument = _without_credentials(argument) if name == "labels" else _numbered(argument)
    wants = STEPS[name]
    if wants is None and argument is not None:
        raise refused("SPS-SPEC-VALUE", f"Expected no argument for {name}, got {argument!r}", f"Write `{name}` alone.")
    if wants is not None and not wants[1](argument):
        fix = f"Write `{{{name}: …}}` with {wants[0]}."
        raise refused("SPS-SPEC-VALUE", f"Expected {wants[0]} for {name}, got {argument!r}", fix)
    return name, tuple(argument) if isinstance(argument, list) else argument


def _without_credentials(labels: Any) -> Any:
    return without_credentials(labels) if isinstance(labels, str) else labels


def _numbered(argument: Any) -> Any:
    return [number_from_text(v) for v in argument] if isinstance(argument, list) else number_from_text(argument)


def _output(value: Any) -> Any:
    if (isinstance(value, str) and value) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    message = f"Expected an output's name or position, got {value!r}"
    raise refused("SPS-SPEC-VALUE", message, "Write `output: probabilities` or `output: 0`.")


class OutputEntry(Closed):
    """One result column: a graph output (name or position), an index, steps, and how it is written."""

    output: Annotated[str | int, BeforeValidator(_output)]
    index: Index | None = None
    then: tuple[Annotated[tuple[str, object], BeforeValidator(_step)], ...] = ()
    encode: Literal["nested", "flat", "binary"] = "nested"
    allow_nan: Flag = False
    range: Range | None = None

    @classmethod
    def expanded(cls, value: Any) -> Any:
        """Write ``probabilities[:, 1]`` out as a mapping."""
        if not isinstance(value, str):
            return value
        match = _SHORT.fullmatch(value.strip())
        if not match:
            fix = f"For such a name use the mapping form: {{output: {value!r}}}, with `index:` beside it."
            raise refused("SPS-SPEC-VALUE", f"Expected an output's name and an optional index, got {value!r}", fix)
        return {k: v for k, v in match.groupdict().items() if v is not None}


class OnError(Closed):
    """How many bad rows a run bears, and how long a call may take."""

    policy: Literal["quarantine", "fail"] = "quarantine"
    max_fraction: Fraction = 0.01
    max_rows: Count | None = None
    min_sample_rows: Count = 1000
    max_consecutive_bad_batches: Positive = 3
    min_ok_rows: Count = 1
    batch_timeout_s: Seconds = 60.0
    load_timeout_s: Seconds = 600.0
    no_progress_s: Seconds | None = 900.0
    max_guard_deaths: Count = 64
    guard: Literal["auto", "always", "off"] = "auto"
    allow_empty: Flag = False

    @model_validator(mode="after")
    def _patient(self) -> OnError:
        if self.no_progress_s is not None and self.no_progress_s <= self.batch_timeout_s:
            got = f"Expected more than batch_timeout_s ({self.batch_timeout_s:g}), got {self.no_progress_s:g}"
            raise refused(
                "SPS-SPEC-VALUE", got, "A call may take batch_timeout_s, and a batch a few of them: raise it."
            )
        return self


_KEY = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/\S+")


def _key_reference(value: Any) -> Any:
    """Take the name of a key, and never repeat what may be the key itself."""
    if isinstance(value, str) and not _KEY.fullmatch(value):
        message = "Expected the name of a key, env:NAME or file:/path, got something else (it is not repeated)"
        raise refused(
            "SPS-SPEC-VALUE", message, "Write `key: env:QUARANTINE_KEY`; the key itself is in no file of ours."
        )
    return value


class Quarantine(Closed):
    """Where bad rows are collected, and how much of them for how long; without a location, inside the ledger."""

    location: Place | None = None
    payload: Literal["none", "hash", "encrypted", "plain"] = "hash"
    key: Annotated[Text | None, BeforeValidator(_key_reference)] = None
    deny: tuple[Text, ...] = ()
    keep_days: Annotated[Positive, Field(le=36_500)] = 30

    @model_validator(mode="after")
    def _keyed(self) -> Quarantine:
        if self.payload == "encrypted" and self.key is None:
            fix = "Write `key: env:QUARANTINE_KEY`, and put 32 random bytes in base64 there (openssl rand -base64 32)."
            raise refused("SPS-SPEC-KEY", "Key 'key' is missing: payload encrypted needs one", fix)
        return self
