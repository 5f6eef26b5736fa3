"""A `where` as comparisons of columns with literals, which a worker can evaluate as Spark would; or what it is beyond.

A filter is made of nested tuples: ``("and" | "or", a, b)``, ``("not", a)``, ``("null", column)`` and
``("=" | "<>" | "<" | "<=" | ">" | ">=", column, literal)``.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from sqlglot import exp

from sparkscore.spec.expressions import tree_of

__all__ = ["BeyondError", "Filter", "Kind", "columns_of", "filter_of"]

Filter = tuple[Any, ...]
Kind = Literal["int", "float", "string", "date", "bool"]

_OPS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_LITERALS: dict[str, type] = {"int": int, "float": float, "string": str, "date": dt.date, "bool": bool}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_INT64 = 2**63
_MOST_DEPTH = 100  # it is walked by recursion, in workers too
_EXACT_IN_FLOAT32 = 2**24  # Spark takes a larger literal beside a float for a float in one mode, a double in another


class BeyondError(Exception):
    """What of an expression a worker would not evaluate as Spark does."""


def filter_of(expression: str, kinds: Mapping[str, Kind]) -> Filter:
    """Take a checked expression apart.

    Parameters
    ----------
    expression : str
        As `sparkscore.spec.expressions.render` gives it.
    kinds : mapping
        Column -> what it holds; columns of other types are left out. Names are compared without case.

    Raises
    ------
    BeyondError
        With the part that is something else than a comparison of one column with a literal of its kind, or when it is
        nested too deeply.

    Examples
    --------
    >>> filter_of("`a` BETWEEN 1 AND 2 AND NOT `b` IS NULL", {"a": "int", "b": "string"})
    ('and', ('and', ('>=', 'a', 1), ('<=', 'a', 2)), ('not', ('null', 'b')))
    """
    try:
        found = _Reader(kinds).read(tree_of(expression))
        if _depth(found) <= _MOST_DEPTH:
            return found
    except RecursionError:
        pass
    raise BeyondError("it is nested too deeply")


def columns_of(one: Filter) -> set[str]:
    """Name the columns that a filter reads."""
    if one[0] in ("and", "or", "not"):
        return set().union(*(columns_of(part) for part in one[1:]))
    return {one[1]}


class _Reader:
    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = {name.lower(): (name, kind) for name, kind in kinds.items()}

    def read(self, node: exp.Expr) -> Filter:
        if isinstance(node, exp.Paren):
            return self.read(node.this)
        if isinstance(node, exp.Not):
            return ("not", self.read(node.this))
        if isinstance(node, (exp.And, exp.Or)):
            return _joined(node.key, [self.read(part) for part in node.flatten()])
        if isinstance(node, exp.Between):
            column = self._column(node.this)
            low, high = node.args["low"], node.args["high"]
            return ("and", self._compared(">=", column, low), self._compared("<=", column, high))
        if isinstance(node, exp.In):
            column = self._column(node.this)
            any_of = [self._compared("=", column, value) for value in node.expressions]
            return _joined("or", any_of)
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return ("null", self._column(node.this)[0])
        if isinstance(node, exp.Column):
            return self._flag(node)
        return self._comparison(node)

    def _comparison(self, node: exp.Expr) -> Filter:
        op = _OPS.get(type(node))
        if op is not None and isinstance(node.this, exp.Column):
            return self._compared(op, self._column(node.this), node.expression)
        if op is not None and isinstance(node.expression, exp.Column):
            return self._compared(_MIRRORED[op], self._column(node.expression), node.this)
        raise BeyondError(_shown(node))

    def _flag(self, node: exp.Expr) -> Filter:
        name, kind = self._column(node)
        if kind != "bool":
            raise BeyondError(_shown(node))
        return ("=", name, True)

    def _column(self, node: exp.Expr) -> tuple[str, Kind]:
        found = self.kinds.get(node.name.lower()) if isinstance(node, exp.Column) and len(node.parts) == 1 else None
        if found is None:
            raise BeyondError(_shown(node))
        return found

    def _compared(self, op: str, column: tuple[str, Kind], node: exp.Expr) -> Filter:
        name, kind = column
        value = _literal(node)
        if kind == "float" and type(value) is int and abs(value) <= _EXACT_IN_FLOAT32:
            value = float(value)
        if type(value) is not _LITERALS[kind] or (type(value) is int and not -_INT64 <= value < _INT64):
            raise BeyondError(f"{_shown(node)} beside {name}, which holds {kind}")
        return (op, name, value)


def _literal(node: exp.Expr) -> Any:
    if isinstance(node, exp.Paren):
        return _literal(node.this)
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
        return -_number(node.this)
    if isinstance(node, exp.Literal):
        return node.this if node.is_string else _number(node)
    if isinstance(node, exp.Boolean):
        return bool(node.this)
    if isinstance(node, exp.Cast) and node.to.this == exp.DataType.Type.DATE and _DAY.fullmatch(str(node.this.this)):
        with suppress(ValueError):  # a day that no month has, which is Spark's to refuse
            return dt.date.fromisoformat(node.this.this)
    raise BeyondError(_shown(node))


def _number(node: exp.Expr) -> int | float:
    text = str(node.this)
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise BeyondError(text) from None


def _joined(word: str, parts: list[Filter]) -> Filter:
    """Join parts to a tree of even depth: a thousand values of an IN are ten levels."""
    if len(parts) == 1:
        return parts[0]
    half = (len(parts) + 1) // 2
    return (word, _joined(word, parts[:half]), _joined(word, parts[half:]))


def _depth(one: Filter) -> int:
    return 1 + max((_depth(part) for part in one[1:] if isinstance(part, tuple)), default=0)


def _shown(node: exp.Expr) -> str:
    return node.sql()[:80]
