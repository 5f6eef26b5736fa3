"""Answers on stdout, as text for people or as one JSON value; everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

__all__ = ["as_table", "emit", "next_commands", "plain", "say"]

_CELL = 64


def emit(value: Any, text: str, as_json: bool) -> None:
    """Print an answer: `value` as JSON, or `text` where there is one."""
    if as_json or text:
        print(json.dumps(plain(value), ensure_ascii=False) if as_json else text)


def say(line: str) -> None:
    """Tell a person something that is not the answer."""
    print(line, file=sys.stderr, flush=True)


def as_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Lay rows out in aligned columns; long cells are cut with '…'."""
    cells = [list(columns), *([_cell(row.get(c)) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def plain(value: Any) -> Any:
    """Give a value as JSON can hold it: times as ISO text, bytes as hex, NaN and infinity as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float) else str(value)


def next_commands(*commands: str) -> str:
    """List commands to try next."""
    return "\n".join(["", "", "next", *(f"  {command}" for command in commands)])


def _cell(value: Any) -> str:
    if value is None:
        text = ""
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = str(plain(value)).replace("\n", " ")
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
