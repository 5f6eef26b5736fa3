"""A column reference of the pipeline file into the path of one column: the only resolver, for all execution paths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparkscore.errors import SparkscoreError, error
from sparkscore.spec.fields import near

_PARTS = re.compile(r"(?P<quoted>`(?:[^`]|``)+`)|(?P<bare>[^`.]+)")


@dataclass(frozen=True)
class Field:
    """A column, or a field of a struct: its name, and its own fields when it is a struct."""

    name: str
    children: tuple[Field, ...] = ()


def resolve(reference: str, fields: Sequence[Field]) -> tuple[str, ...]:
    """Find the one column that a reference means.

    Parameters
    ----------
    reference : str
        A column's name; ``a.b`` for field b of struct a, or for a column of that name; backticks around a part take
        it as it is (```a.b```, a doubled backtick for one in the name).
    fields : sequence of Field
        The columns of the frame.

    Returns
    -------
    tuple of str
        The exact names from the column down to the field: one of them for a plain column.

    Raises
    ------
    SpecError
        SPS-SPEC-COLUMN: no such column, or more than one that it could mean.

    Examples
    --------
    >>> resolve("A.b", [Field("a", (Field("b"),)), Field("c")])
    ('a', 'b')
    """
    quoted = "`" in reference
    parts = _parts(reference) if quoted else reference.split(".")
    columns = [] if quoted else _paths([reference], fields)
    nested = _paths(parts, fields) if quoted or len(parts) > 1 else []
    if columns and nested:
        fix = f"Write {_quoted(columns[0])} for the column, or {_quoted(nested[0])} for the field."
        raise _wrong(reference, "both a column and a field of a struct have that name", fix)
    found = columns or nested
    if len(found) > 1:
        names = " and ".join(_quoted(path) for path in found)
        raise _wrong(reference, f"it could mean {names}", "Write the name exactly, or rename one in `prepare`.")
    if not found:
        known = list(_names(fields))
        fix = near(reference.replace("`", ""), known) or f"The columns are {', '.join(known[:20])}. "
        raise _wrong(reference, "there is none of that name after `prepare`", fix + "Mend the name.")
    return found[0]


def _wrong(reference: str, why: str, fix: str) -> SparkscoreError:
    return error("SPS-SPEC-COLUMN", f"Expected one column for {reference!r}: {why}.", fix, column=reference)


def _parts(reference: str) -> list[str]:
    """Split at the dots outside backticks."""
    found = list(_PARTS.finditer(reference))
    if not found or ".".join(m[0] for m in found) != reference:
        raise _wrong(reference, "it is not a name, or names with dots between them", "Close each backtick.")
    return [m["bare"] or m["quoted"][1:-1].replace("``", "`") for m in found]


def _paths(parts: list[str], fields: Sequence[Field]) -> list[tuple[str, ...]]:
    """Give the paths that the parts could mean: at each level the exact name if there is one, else without case."""
    exact = [f for f in fields if f.name == parts[0]]
    heads = exact or [f for f in fields if f.name.lower() == parts[0].lower()]
    if len(parts) == 1:
        return [(f.name,) for f in heads]
    return [(f.name, *rest) for f in heads for rest in _paths(parts[1:], f.children)]


def _quoted(path: Sequence[str]) -> str:
    return ".".join("`" + name.replace("`", "``") + "`" for name in path)


def _names(fields: Sequence[Field], above: str = "") -> Iterator[str]:
    for field in fields:
        yield above + field.name
        yield from _names(field.children, f"{above}{field.name}.")
