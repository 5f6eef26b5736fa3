"""The `err` column: null for good rows; for bad ones the fault, the row's address and what identifies its content."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.runtime.arrow import numbers, rows, structs, without_views
from sparkscore.runtime.faults import Fault
from sparkscore.scoring.intake import pointers
from sparkscore.spec.scoring import CORRUPT_COL
from sparkscore.tables import ERR, arrow_struct

__all__ = ["ERR_TYPE", "Verdict", "canonical_json", "err_column", "verdicts"]

ERR_TYPE = arrow_struct(ERR)
Verdict = dict[str, Any]  # one cell of the column, keyed as `tables.ERR`

_clean: pa.Array = pa.nulls(16384, ERR_TYPE)  # immutable; a clean batch takes a slice of it


def err_column(found: dict[int, Verdict], n: int) -> pa.StructArray:
    """Build the column.

    Parameters
    ----------
    found : dict of Verdict
        Position -> cell, for the bad rows.
    n : int
        Rows of the batch.

    Returns
    -------
    StructArray
        Of length n and type `ERR_TYPE`.
    """
    if not found:
        return _clean.slice(0, n) if n <= len(_clean) else pa.nulls(n, ERR_TYPE)
    cells = structs(list(found.values()), ERR_TYPE)
    index = np.full(n, -1, dtype=np.int64)
    index[list(found)] = np.arange(len(found))
    return cells.take(numbers(index, index < 0))


def verdicts(
    batch: pa.RecordBatch,
    faults: dict[int, Fault],
    names: Sequence[str],
    payload: Literal["none", "hash", "plain"],
    calls: tuple[NDArray[np.int32], NDArray[np.int32]],
) -> dict[int, Verdict]:
    """Say of each bad row what is wrong with it.

    Parameters
    ----------
    batch : RecordBatch
        The rows as they came in, n of them.
    faults : dict of Fault
        Position -> fault.
    names : sequence of str
        The columns that identify the row's content: those fed to the model, and the keys. A malformed line adds its
        text, because its cells are null.
    payload : {'none', 'hash', 'plain'}
        Whether nothing, the sha256 of the canonical JSON, or the JSON too is kept.
    calls : two ndarray of int32, shape (n,)
        Rows of each row's model batch (0: it was in none), and the model calls that it took part in.
    """
    positions = list(faults)
    batch_rows, tries = calls
    index = numbers(np.array(positions, np.int64))
    bad = pa.RecordBatch.from_arrays([without_views(c).take(index) for c in batch.columns], batch.schema.names)
    contents = _contents(bad, names) if payload != "none" else [None] * len(positions)
    found: dict[int, Verdict] = {}
    for row, content, pointer in zip(positions, contents, pointers(bad).to_pylist(), strict=True):
        fault = faults[row]
        found[row] = {
            "stage": fault.stage,
            "error_code": fault.code,
            "error_class": fault.error_class,
            "error_type": fault.error_type,
            "error_message": fault.message,
            "source_pointer": pointer,
            "payload": content if payload == "plain" else None,
            "payload_sha256": hashlib.sha256(content).hexdigest() if content is not None else None,
            "batch_rows": int(batch_rows[row]) or None,
            "tries": int(tries[row]),
        }
    return found


def _contents(bad: pa.RecordBatch, names: Sequence[str]) -> list[bytes]:
    chosen = bad.select([name for name in (*dict.fromkeys(names), CORRUPT_COL) if name in bad.schema.names])
    found = rows(chosen)
    for row in found:
        if row.get(CORRUPT_COL, "") is None:
            del row[CORRUPT_COL]
    return [canonical_json(row) for row in found]


def canonical_json(row: dict[str, Any]) -> bytes:
    r"""Write a row as JSON with one form for one content: sorted keys, no spaces, UTF-8.

    NaN and infinities are the strings "NaN", "Infinity", "-Infinity"; bytes are base64; decimals their digits; dates
    and times ISO 8601. A byte XX of a text that is not UTF-8 is written as the escape ``\udcXX`` (Python's PEP 383).

    Examples
    --------
    >>> canonical_json({"b": float("nan"), "a": b"\x01", "c": [1.5, None]})
    b'{"a":"AQ==","b":"NaN","c":[1.5,null]}'
    """
    text = json.dumps(_plain(row), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, Decimal) else value
