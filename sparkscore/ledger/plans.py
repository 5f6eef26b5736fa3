"""A run's plan, written once: the pinned input, the pinned model, the fingerprint, and the ordered list of units."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkscore.errors import error
from sparkscore.ledger.input_files import FILES, FileList, InputFile
from sparkscore.ledger.store import Store

__all__ = ["LEDGER_VERSION", "FileList", "InputFile", "Plan", "Unit", "read_plan", "unit_id", "write_plan"]

LEDGER_VERSION = 1

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,199}")  # Airflow's own run ids among them

_SEQ = pa.field("unit_seq", pa.int64())


@dataclass(frozen=True)
class Unit:
    """An ordered list of files that one Spark job scores and one commit holds: the grain of resume and budget."""

    seq: int
    unit_id: str
    files: FileList

    @classmethod
    def of(cls, seq: int, files: Iterable[InputFile]) -> Unit:
        """Make a unit, named by its files."""
        listed = FileList.of(files)
        return cls(seq, unit_id(listed), listed)

    @property
    def rows(self) -> int | None:
        """Rows in the files, None where unknown."""
        return self.files.rows


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

    def folders(self) -> list[str]:
        """Name the folders that the files are in, each with a slash at its end."""
        found: set[str] = set()
        for unit in self.units:
            found.update(pc.unique(pc.replace_substring_regex(unit.files.table["path"], r"[^/]*$", "")).to_pylist())
        return sorted(found)

    def some_paths(self, most: int) -> list[str]:
        """Name files from all over the plan, at most so many."""
        firsts = [file.path for unit in _spread(self.units, most) for file in unit.files.spread(most)]
        return _spread(firsts, most)


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    return list(items[:: max(1, -(-len(items) // most))])


def unit_id(files: FileList) -> str:
    """Name a unit by its files: sha256 of their canonical JSON, so that it is the same on each attempt."""
    return hashlib.sha256(_canonical(list(files.values("path", "size_bytes", "mtime_ms")))).hexdigest()


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
    tables = [u.files.table.add_column(0, _SEQ, pa.repeat(pa.scalar(u.seq, _SEQ.type), len(u.files))) for u in units]
    sink = pa.BufferOutputStream()
    schema = pa.schema([_SEQ, *FILES])
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for table in tables:
            writer.write_table(table)
    return bytes(sink.getvalue())


def _from_arrow(data: bytes) -> tuple[Unit, ...]:
    by_seq: dict[int, list[pa.RecordBatch]] = {}
    reader = pa.ipc.open_file(data)
    for batch in map(reader.get_batch, range(reader.num_record_batches)):
        seqs = batch["unit_seq"].to_numpy()
        files = batch.select(FILES.names)
        for a, b in pairwise([0, *(np.flatnonzero(np.diff(seqs)) + 1).tolist(), len(seqs)]):
            if b > a:
                by_seq.setdefault(int(seqs[a]), []).append(files.slice(a, b - a))
    return tuple(Unit.of(seq, FileList(pa.Table.from_batches(found))) for seq, found in sorted(by_seq.items()))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
