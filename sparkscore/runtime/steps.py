"""The steps after a graph output, each one numpy function over (n, …) and one rule of types, in one table.

The rules (`Step.gives`) run on the driver, so that a pipeline that cannot work is refused before anything is scored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sparkscore.errors import SparkscoreError, error

__all__ = ["STEPS", "Ranked", "Step", "Value", "parse_index", "value_type"]

Array = NDArray[Any]

_AXIS = re.compile(r"(?P<at>-?\d+)|(?P<start>-?\d+)?\s*:\s*(?P<stop>-?\d+)?\s*(?::\s*(?P<step>-?\d+)?)?")


@dataclass(frozen=True)
class Value:
    """What a row has at some step: numpy dtype name or 'str', shape with None for free dimensions.

    `classes` is the number of classes that an index came from; `ranked` marks the pairs that `top_k` makes.
    """

    dtype: str
    shape: tuple[int | None, ...]
    classes: int | None = None
    ranked: bool = False
    labelled: bool = False

    def __str__(self) -> str:
        axes = ", ".join(["n", *("?" if d is None else str(d) for d in self.shape)])
        return f"{self.dtype} ({axes})"


@dataclass(frozen=True)
class Ranked:
    """The k best of each row, best first: positions (int64), scores, and labels (str) once they are named; (n, k)."""

    index: NDArray[np.int64]
    score: Array
    label: Array | None = None


@dataclass(frozen=True)
class Step:
    """A step: the function, and what it makes of a value's type (raises `SPS-SPEC-OUTPUT` where it cannot work)."""

    run: Callable[[Any, Any], Any]
    gives: Callable[[Value, Any], Value]


@cache
def parse_index(text: str) -> tuple[int | slice, ...]:
    """Read a numpy basic index of integers and slices whose first axis is ``:``.

    Raises
    ------
    SpecError
        SPS-SPEC-OUTPUT for anything else.

    Examples
    --------
    >>> parse_index("[:, -1, 2:5]")
    (slice(None, None, None), -1, slice(2, 5, None))
    """
    inner = re.fullmatch(r"\s*\[(.*)\]\s*", text)
    axes = [_AXIS.fullmatch(axis.strip()) for axis in inner[1].split(",")] if inner else []
    if axes and inner and inner[1].rstrip().endswith(","):
        axes.pop()
    found = tuple(_axis(match) for match in axes if match is not None)
    if not axes or len(found) < len(axes) or found[0] != slice(None):
        message = f"Expected an index of integers and slices whose first axis is ':', got {text!r}."
        raise error("SPS-SPEC-OUTPUT", message, "Write, for example, '[:, 1]': the first axis is the rows.")
    return found


@cache
def value_type(dtype: np.dtype[Any]) -> str:
    """Give the plan's name of a numpy dtype: 'str' for strings."""
    return "str" if dtype.kind in "OU" else str(dtype)


def _axis(match: re.Match[str]) -> int | slice:
    if match["at"] is not None:
        return int(match["at"])
    start, stop, step = (None if match[k] is None else int(match[k]) for k in ("start", "stop", "step"))
    return slice(start, stop, step)


# -- functions: (n, …) and the argument -> (n, …) ------------------------------------------------------


def softmax(x: Array, _: None) -> Array:
    """Give exp(x - max) / sum over the last axis."""
    x = _wide(x)
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return cast(Array, powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(x: Array, _: None) -> Array:
    """Give 1 / (1 + exp(-x)), without overflow on either side."""
    x = _wide(x)
    power = np.exp(-np.abs(x))
    return cast(Array, np.where(x >= 0, 1, power) / (1 + power))


def argmax(x: Array, _: None) -> Array:
    """Position of the largest value on the last axis; the first of equals."""
    return cast(Array, x.argmax(axis=-1))


def top_k(x: Array, k: int) -> Ranked:
    """The k largest values on the last axis, largest first; of equals the one that stands first."""
    order = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    index = order[..., :k]
    return Ranked(index, np.take_along_axis(x, index, axis=-1))


def labels(value: Array | Ranked, names: tuple[str, ...]) -> Array | Ranked:
    """Names of positions; None where there is no such position."""
    index = value.index if isinstance(value, Ranked) else value
    known = (index >= 0) & (index < len(names))
    texts = np.array([*names, None], dtype=object)[np.where(known, index, len(names))]
    return replace(value, label=texts) if isinstance(value, Ranked) else texts


def threshold(x: Array, at: float) -> Array:
    """Whether x >= at."""
    return cast(Array, x >= at)


def affine(x: Array, ab: tuple[float, float]) -> Array:
    """Give a * x + b; integers become float64."""
    x = _float(x)
    return cast(Array, x * x.dtype.type(ab[0]) + x.dtype.type(ab[1]))


def clip(x: Array, bounds: tuple[float, float]) -> Array:
    """Hold x within [low, high]; integers become float64."""
    x = _float(x)
    return np.clip(x, x.dtype.type(bounds[0]), x.dtype.type(bounds[1]))


def mean_pool(x: Array, mask: Array | None) -> Array:
    """Mean over axis 1, of the places where the mask (n, axis 1) is not 0; without a mask, of all.

    Notes
    -----
    The masked mean of Sentence-BERT (Reimers and Gurevych 2019, arXiv:1908.10084), with its floor of 1e-9 under the
    count, so that a row without tokens gives zeros.
    """
    x = _wide(x)
    if mask is None:
        return cast(Array, x.mean(axis=1))
    weights = mask.astype(x.dtype)[..., None]
    return cast(Array, (x * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), x.dtype.type(1e-9)))


def cls_pool(x: Array, _: None) -> Array:
    """The first place on axis 1."""
    return x[:, 0]


def l2_normalize(x: Array, _: None) -> Array:
    """Divide by the Euclidean length on the last axis; zeros stay zeros."""
    x = _wide(x)
    length = np.sqrt(np.square(x).sum(axis=-1, keepdims=True))
    return cast(Array, x / np.maximum(length, x.dtype.type(1e-12)))


def index(x: Array, text: str) -> Array:
    """Basic numpy index, given as text."""
    return x[parse_index(text)]


def _wide(x: Array) -> Array:
    """Compute halves in float32."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _float(x: Array) -> Array:
    return _wide(x) if x.dtype.kind == "f" else x.astype(np.float64)


# -- rules: the type of a row's value and the argument -> its type after the step -----------------------


def _floats(value: Value, _: object) -> Value:
    if not value.dtype.startswith("float") or value.ranked:
        raise _refused(value, "floats")
    return replace(value, dtype="float32" if value.dtype == "float16" else value.dtype)


def _floats_last(value: Value, _: object) -> Value:
    return _floats(_with_axes(value, 1), None)


def _numbers(value: Value) -> Value:
    if value.dtype in ("str", "bool") or value.ranked:
        raise _refused(value, "numbers")
    return value


def _argmax(value: Value, _: object) -> Value:
    _numbers(_with_axes(value, 1))
    return Value("int64", value.shape[:-1], classes=value.shape[-1])


def _top_k(value: Value, k: int) -> Value:
    _numbers(value)
    if len(value.shape) != 1:
        raise _refused(value, "one axis of scores a row")
    found = value.shape[-1]
    if found is not None and k > found:
        raise _refused(value, f"at least {k} scores a row")
    return replace(value, shape=(k,), classes=found, ranked=True)


def _labels(value: Value, names: tuple[str, ...] | str) -> Value:
    if value.labelled or not (value.ranked or "int" in value.dtype):
        raise _refused(value, "positions, as argmax or top_k give")
    if value.classes is not None and not isinstance(names, str) and len(names) != value.classes:
        raise _refused(value, f"{value.classes} labels, one a class, and not {len(names)}")
    return replace(value, labelled=True) if value.ranked else Value("str", value.shape)


def _threshold(value: Value, _: object) -> Value:
    return Value("bool", _numbers(value).shape)


def _number_to_float(value: Value, _: object) -> Value:
    _numbers(value)
    return _floats(value, None) if value.dtype.startswith("float") else replace(value, dtype="float64", classes=None)


def _mean_pool(value: Value, _: object) -> Value:
    pooled = _floats(_with_axes(value, 2), None)
    return replace(pooled, shape=pooled.shape[1:])


def _cls_pool(value: Value, _: object) -> Value:
    if value.ranked:
        raise _refused(value, "an array")
    return replace(_with_axes(value, 2), shape=value.shape[1:])


def _indexed(value: Value, text: str) -> Value:
    parts = parse_index(text)[1:]
    if value.ranked or len(parts) > len(value.shape):
        raise _refused(value, f"{len(parts)} axes after the rows for the index {text}")
    kept: list[int | None] = []
    for axis, (part, size) in enumerate(zip(parts, value.shape, strict=False), start=1):
        if isinstance(part, slice):
            kept.append(None if size is None else len(range(*part.indices(size))))
        elif size is not None and not -size <= part < size:
            least = part + 1 if part >= 0 else -part
            raise _refused(value, f"at least {least} values on axis {axis} for the index {text}")
    return replace(value, shape=(*kept, *value.shape[len(parts) :]))


def _with_axes(value: Value, axes: int) -> Value:
    if len(value.shape) < axes or value.ranked:
        raise _refused(value, f"{axes} axes or more after the rows")
    return value


def _refused(value: Value, wants: str) -> SparkscoreError:
    got = "the pairs of top_k" if value.ranked else str(value)
    message = f"Expected {wants}, got {got}."
    return error("SPS-SPEC-OUTPUT", message, "Change the steps, or select another part of the output.")


# A new step is one function, one rule and one line here (and its name in `sparkscore.spec.results`).
STEPS: dict[str, Step] = {
    "softmax": Step(softmax, _floats_last),
    "sigmoid": Step(sigmoid, _floats),
    "argmax": Step(argmax, _argmax),
    "top_k": Step(top_k, _top_k),
    "labels": Step(labels, _labels),
    "threshold": Step(threshold, _threshold),
    "affine": Step(affine, _number_to_float),
    "clip": Step(clip, _number_to_float),
    "mean_pool": Step(mean_pool, _mean_pool),
    "cls_pool": Step(cls_pool, _cls_pool),
    "l2_normalize": Step(l2_normalize, _floats_last),
    "index": Step(index, _indexed),
}
