"""A run's plan, written once: the pinned input, the pinned model, the fingerprint, and the ordered list of units."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.ledger.store import Store

__all__ = ["LEDGER_VERSION", "InputFile", "Plan", "Unit", "read_plan", "unit_id", "write_plan"]

LEDGER_VERSION = 1

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,199}")  # Airflow's own run ids among them

_FILES_SCHEMA = pa.schema(
    [
        ("unit_seq", pa.int64()),
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ms", pa.int64()),
        ("rows", pa.int64()),
    ]
)


@dataclass(frozen=True)
class InputFile:
    """One input file as the plan pinned it. `rows` is None where the format cannot tell before it is read."""

    path: str
    size_bytes: int
    mtime_ms: int
    rows: int | None


@dataclass(frozen=True)
class Unit:
    """An ordered list of files that one Spark job scores and one commit holds: the grain of resume and budget."""

    seq: int
    unit_id: str
    files: tuple[InputFile, ...]

    @property
    def rows(self) -> int | None:
        """Rows in the files, None where unknown."""
        counts = [f.rows for f in self.files]
        return None if any(c is None for c in counts) else sum(c for c in counts if c is not None)


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run, in a form that is the same for each attempt.

    `header` is plain JSON: run_id, pipeline_name, spec_sha256, spec, model, input, balance_basis, planned_rows,
    ledger_version, code_version, created_at.
    """

    header: dict[str, Any]
    units: tuple[Unit, ...]

    @property
    def run_id(self) -> str:
        """The run that the plan belongs to."""
        return str(self.header["run_id"])

    @property
    def sha256(self) -> str:
        """Digest of the header and the units; each commit names it."""
        ids = [u.unit_id for u in self.units]
        return hashlib.sha256(_canonical({**self.header, "unit_ids": ids})).hexdigest()


def unit_id(files: tuple[InputFile, ...]) -> str:
    """Name a unit by its files: sha256 of their canonical JSON, so that it is the same on each attempt."""
    return hashlib.sha256(_canonical([[f.path, f.size_bytes, f.mtime_ms] for f in files])).hexdigest()


def write_plan(store: Store, plan: Plan) -> Plan | None:
    """Write the plan and give it as it stands; None when another driver wrote one first, which then holds.

    The files' table is named by its own digest and written before the header, so the header alone is the commit:
    a crash between the two leaves an unnamed table and no plan.
    """
    table = _to_arrow(plan.units)
    files = f"plans/{plan.run_id}.{hashlib.sha256(table).hexdigest()[:12]}.arrow"
    store.put_if_absent(files, table)
    header = {**plan.header, "files": files}
    written = store.put_if_absent(f"plans/{plan.run_id}.json", _canonical(header))
    return Plan(header, plan.units) if written else None


def read_plan(store: Store, run_id: str) -> Plan | None:
    """Read a run's plan, None when the ledger has none.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` for what cannot be a run id; `SPS-RUN-CHANGED` when the plan was written in another ledger
        format.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected a run id of letters, digits, '_', '.', ':', '+' and '-' (it names files), got {run_id!r}.",
            "Give another run id.",
        )
    data = store.get(f"plans/{run_id}.json")
    if data is None:
        return None
    header = json.loads(data)
    if header["ledger_version"] != LEDGER_VERSION:
        raise error(
            "SPS-RUN-CHANGED",
            f"Expected a plan of ledger format {LEDGER_VERSION}. Got format {header['ledger_version']}, "
            f"written by sparkscore {header['code_version']}.",
            "Resume with that version of sparkscore, or start a new run id.",
            run=run_id,
        )
    table = store.get(header["files"])
    if table is None:
        raise error(
            "SPS-ENV-LEDGER",
            f"Expected the plan's list of files at {header['files']}. Got nothing.",
            "Restore the ledger folder, or start a new run id.",
            run=run_id,
        )
    return Plan(header, _from_arrow(table))


def _to_arrow(units: tuple[Unit, ...]) -> bytes:
    rows = [(u.seq, f.path, f.size_bytes, f.mtime_ms, f.rows) for u in units for f in u.files]
    columns = list(zip(*rows, strict=True)) or [()] * len(_FILES_SCHEMA)
    arrays = [pa.array(list(c), field.type) for c, field in zip(columns, _FILES_SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _FILES_SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_FILES_SCHEMA))
    return bytes(sink.getvalue())


def _from_arrow(data: bytes) -> tuple[Unit, ...]:
    by_seq: dict[int, list[InputFile]] = {}
    for row in pa.ipc.open_file(data).read_all().to_pylist():
        by_seq.setdefault(row.pop("unit_seq"), []).append(InputFile(**row))
    return tuple(Unit(seq, unit_id(tuple(files)), tuple(files)) for seq, files in sorted(by_seq.items()))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
