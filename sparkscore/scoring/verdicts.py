"""The `err` column: null for good rows; for bad ones the fault, the row's address and what identifies its content."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.runtime.arrow import numbers, rows, structs, without_views
from sparkscore.runtime.faults import Fault
from sparkscore.runtime.sealing import q_id, seal
from sparkscore.scoring.intake import pointers
from sparkscore.spec.scoring import CORRUPT_COL, ScoringPlan
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
    plan: ScoringPlan,
    calls: tuple[NDArray[np.int32], NDArray[np.int32]],
) -> dict[int, Verdict]:
    """Say of each bad row what is wrong with it.

    Parameters
    ----------
    batch : RecordBatch
        The rows as they came in, n of them.
    faults : dict of Fault
        Position -> fault.
    plan : ScoringPlan
        Its fed columns and keys are the row's content, less those that it denies; a malformed line adds its text,
        because its cells are null, unless something is denied, which the text would hold. Its `payload` says whether
        nothing is kept, the sha256 of the content's canonical JSON, the JSON encrypted, or the JSON and its sha256.
    calls : two ndarray of int32, shape (n,)
        Rows of each row's model batch (0: it was in none), and the model calls that it took part in.
    """
    positions = list(faults)
    batch_rows, tries = calls
    index = numbers(np.array(positions, np.int64))
    bad = pa.RecordBatch.from_arrays([without_views(c).take(index) for c in batch.columns], batch.schema.names)
    contents = _contents(bad, plan) if plan.payload != "none" else [None] * len(positions)
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
            **_kept(content, plan, pointer, fault.stage),
            "batch_rows": int(batch_rows[row]) or None,
            "tries": int(tries[row]),
        }
    return found


def _kept(content: bytes | None, plan: ScoringPlan, pointer: str | None, stage: str) -> dict[str, Any]:
    """Keep of a row what the mode allows; beside what is encrypted no sha256, which names a row where few can be."""
    if content is None or plan.payload == "encrypted":
        sealed = None
        if content is not None and plan.sealing is not None and pointer is not None:
            bound_to = q_id(plan.sealing.run_id, plan.sealing.unit_id, pointer, stage)
            sealed = seal(plan.sealing.key, content, bound_to)
        return {"payload": sealed, "payload_sha256": None}
    sha256 = hashlib.sha256(content).hexdigest()
    return {"payload": content if plan.payload == "plain" else None, "payload_sha256": sha256}


def _contents(bad: pa.RecordBatch, plan: ScoringPlan) -> list[bytes]:
    names = [name for name in dict.fromkeys((*plan.columns, *plan.keys)) if not _denied(name, plan.deny)]
    chosen = bad.select([n for n in (*names, *(() if plan.deny else (CORRUPT_COL,))) if n in bad.schema.names])
    found = rows(chosen)
    for row in found:
        if row.get(CORRUPT_COL, "") is None:
            del row[CORRUPT_COL]
    return [canonical_json(row) for row in found]


def _denied(name: str, deny: Sequence[str]) -> bool:
    """Tell whether a column is denied, is a field of one that is, or is a struct with a field that is."""
    return any(f"{name}.".startswith(f"{d}.") or f"{d}.".startswith(f"{name}.") for d in deny)


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
