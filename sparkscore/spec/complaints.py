"""Pydantic's errors into one SpecError: the key's path as written in the file, what was expected, got, and the fix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sparkscore.errors import SparkscoreError, error
from sparkscore.spec.fields import carries_secret, near

_WORDS = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "too_short": "at least one",
}
_INPUT_SHOULD = re.compile(r"^(Input|Value) should (be )?")
_ORDER = ("SPS-SPEC-KEY", "SPS-SPEC-VALUE", "SPS-SPEC-LATER")


def path_text(location: Sequence[int | str], document: Any) -> str:
    """Write an error's location as the user would: ``inputs.x[1].range``.

    Parameters
    ----------
    location : sequence of str or int
        Pydantic's location, with our union tags in angle brackets and the indexes of normalised short forms.
    document : mapping
        The document as written; steps that it does not have (short forms) are left out.
    """
    text, here = "", document
    for step in location:
        if isinstance(step, str) and step[:1] == "<":
            continue
        if isinstance(here, list | tuple) and isinstance(step, int) and step < len(here):
            text, here = f"{text}[{step}]", here[step]
        elif isinstance(here, Mapping) and isinstance(step, str) and step != "[key]":
            text, here = f"{text}.{step}" if text else step, here.get(step)
    return text


def to_spec_error(failure: ValidationError, document: Any) -> SparkscoreError:
    """Turn the failures of a document into one error: the first by importance, the others named."""
    found = [_complaint(detail, document) for detail in failure.errors(include_url=False)]
    found.sort(key=lambda c: _ORDER.index(c[0]))
    code, path, message, fix = found[0]
    others = list(dict.fromkeys(p or "the whole" for _, p, _, _ in found[1:] if p != path))
    also = f" (Also to mend: {', '.join(others[:5])}{', …' if len(others) > 5 else ''}.)" if others else ""
    return error(code, f"{message}{also}", fix, at=path)


def _complaint(detail: ErrorDetails, document: Any) -> tuple[str, str, str, str]:
    kind, path, context = detail["type"], path_text(detail["loc"], document), detail.get("ctx", {})
    if kind in _ORDER:
        return kind, context["at"] or path, f"{context['message']}.", context["fix"]
    if kind == "missing":
        return "SPS-SPEC-KEY", path, f"Key {path.rpartition('.')[2]!r} is missing.", f"Write `{path}: …`."
    expected = _WORDS.get(kind) or _INPUT_SHOULD.sub("", detail["msg"])
    choices = str(context.get("expected", "")) if kind == "literal_error" else ""
    fix = near(str(detail["input"]), choices.replace(" or ", ", ").replace("'", "").split(", ")) if choices else ""
    return "SPS-SPEC-VALUE", path, f"Expected {expected}, got {shown(detail['input'])}.", f"{fix}Give {expected}."


def shown(value: Any) -> str:
    """Show a value of the file with its kind, at most 80 characters long.

    Examples
    --------
    >>> shown({"a": 1})
    "mapping {'a': 1}"
    """
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    kinds = ((str, "text "), (int | float, "number "), (Mapping, "mapping "), (list | tuple, "list "))
    kind = next((word for cls, word in kinds if isinstance(value, cls)), "")
    text = "with a credential in it" if carries_secret(value) else repr(value)
    return kind + (text if len(text) <= 80 else text[:79] + "…")
