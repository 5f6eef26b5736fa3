"""What stands in for Spark and Delta below the run's protocol: sessions, frames, a table's log, and its rows counted.

Delta's part, as measured on the real one: a write is skipped without a word when the log already holds its transaction
or a later one of the same application; of two writes of one application in flight together, the later to commit raises
ConcurrentTransactionException; a commit is atomic.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Self

import pytest
from pyspark.errors import PySparkException
from pyspark.sql.types import StructType

from sparkscore.ledger.plans import LEDGER_VERSION, InputFile, Plan, Unit
from sparkscore.run import attempt, batch, delta_line, publishing
from sparkscore.spark import commit
from sparkscore.spark.commit import Commit, Committed
from sparkscore.spark.delta_log import DeltaTable
from sparkscore.spec.fingerprint import fingerprint
from sparkscore.spec.pipeline import load_pipeline

__all__ = ["SINKS", "Entry", "Frame", "Row", "Session", "Writer", "pipeline", "put", "rows_of", "without_looking"]

ROWS = 4  # of a unit, over two partitions: one is bad, and one of unit 1 is filtered
BAD, FILTERED = 2, (1, 3)
_COUNTS = ("model_calls", "proof_calls", "rows_truncated", "oom_splits", "batch_mix", "batch_target_rows")
_COUNTS += ("guard_deaths", "model_ms", "peak_rss_bytes", "wall_s")


@dataclass(frozen=True)
class Row:
    """A row of the sink."""

    key: str
    value: int | None
    status: str
    run_id: str
    unit_seq: int
    unit_id: str
    task_id: int


@dataclass(frozen=True)
class Entry:
    """A version of the sink's log."""

    app_id: str | None
    txn_version: int
    user_metadata: str
    rows: tuple[Row, ...]


class Session:
    """As much of a Spark session as the protocol asks for."""

    version = "4.2.0"

    def __init__(self, world: Any) -> None:
        self.world = world
        self.last_version: int | None = None
        self.conf = self

    def get(self, name: str, default: Any = None) -> Any:
        return self.last_version if name.endswith("lastCommitVersionInSession") else default

    def range(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(collect=list)


class Writer:
    """A frame that is its own writer into the sink's Delta table."""

    schema = StructType()
    columns = ("id", "value")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.settings: dict[str, str] = {}
        self.write = self

    def format(self, _: str) -> Self:
        return self

    mode = format

    def options(self, **options: str) -> Self:
        self.settings.update(options)
        return self

    def option(self, name: str, value: str) -> Self:
        self.settings[name] = value
        return self

    def computed(self) -> tuple[Row, ...]:
        """Compute the rows, as the tasks of the write do."""
        raise NotImplementedError

    def commit(self, points: tuple[str, str, str]) -> None:
        """Write in one transaction, past the points of its first file, its last task and its commit."""
        driver, log = threading.current_thread(), self.session.world.log
        with driver.at("write"):  # before the snapshot that the transaction is held against
            pass
        app, version = self._transaction()
        if app is not None and _newest(log, app) >= version:
            return  # Delta skips it
        seen = len(log)
        with driver.at(points[0]):
            rows = self.computed()
        with driver.at(points[1]):
            pass
        with driver.at(points[2]):
            _append(self.session, seen, Entry(app, version, self.settings["userMetadata"], rows))

    def _transaction(self) -> tuple[str | None, int]:
        broken, version = self.session.world.broken, int(self.settings["txnVersion"])
        if "fence in the transaction" in broken:
            version |= json.loads(self.settings["userMetadata"])["attempt"] << 20
        return None if "transactions" in broken else self.settings["txnAppId"], version


class Frame(Writer):
    """The rows of a unit, scored when they are written."""

    def __init__(self, session: Session, plan: Plan, unit: Unit, model: int, attempt: int) -> None:
        super().__init__(session)
        self.plan, self.unit, self.model, self.attempt = plan, unit, model, attempt

    def save(self, _: str) -> None:
        self.commit(("C3", "C4", "C6" if self.unit.seq == self.session.world.units - 1 else "C5"))

    def computed(self) -> tuple[Row, ...]:
        """Score the unit's rows over two tasks, of which the first is tried twice; each try leaves a receipt."""
        rows: list[Row] = []
        of_unit = list(rows_of(self.plan, self.unit, self.model))
        for partition, tries in ((0, 2), (1, 1)):
            share = of_unit[partition::2]
            for _ in range(tries):
                self.session.world.tasks += 1
                task = self.session.world.tasks
                _leave_receipt(self, partition, task, share)
            kept = [row for row in share if row.status != "filtered"]
            rows += [Row(**{**vars(row), "task_id": task}) for row in kept]
        return tuple(rows)


def _append(session: Session, seen: int, entry: Entry) -> None:
    """Commit what was begun when the log had `seen` entries."""
    log = session.world.log
    if entry.app_id is not None and any(other.app_id == entry.app_id for other in log[seen:]):
        raise PySparkException("ConcurrentTransactionException: [DELTA_CONCURRENT_TRANSACTION] …")
    log.append(entry)
    session.last_version = len(log) - 1


def _shut_out(session: Session, _: object, transaction: tuple[str, int]) -> None:
    log, (app, version), driver = session.world.log, transaction, threading.current_thread()
    if _newest(log, app) < version:
        seen = len(log)
        with driver.at("shut out"):
            _append(session, seen, Entry(app, version, "", ()))


def rows_of(plan: Plan, unit: Unit, model: int) -> Iterator[Row]:
    """What scoring a unit gives; filtered rows too."""
    for i in range(ROWS):
        status = "error" if i == BAD else "filtered" if (unit.seq, i) == FILTERED else "ok"
        value = None if status == "error" else 1_000 * model + 10 * unit.seq + i
        yield Row(f"{unit.files[0].path}#{i}", value, status, plan.run_id, unit.seq, unit.unit_id, 0)


def _leave_receipt(frame: Frame, partition: int, task: int, rows: Sequence[Row]) -> None:
    count = {status: sum(row.status == status for row in rows) for status in ("ok", "error", "filtered")}
    receipt = {
        "attempt": frame.attempt,
        "partition": partition,
        "task_attempt_id": task,
        "rows_in": len(rows),
        "rows_ok": count["ok"],
        "rows_bad": count["error"],
        "rows_filtered": {"0": count["filtered"]} if count["filtered"] else {},
        "bad_by_code": {"SPS-ROW-NULL": count["error"]} if count["error"] else {},
        "rows_scored": count["ok"],
        **dict.fromkeys(_COUNTS, 1),
        "call_buckets": [],
        "provider": "CPUExecutionProvider",
        "versions": {},
    }
    name = f"receipts/{frame.plan.run_id}/{frame.unit.seq}/{frame.attempt}-{partition}-{task}.json"
    frame.session.world.objects[name] = json.dumps(receipt).encode()


SINKS = {
    "delta": {"format": "delta", "location": "/out"},
    "files": {"format": "parquet", "location": "/out"},
    "atomic delta": {"format": "delta", "location": "/out", "publish": "atomic"},
}


@cache
def pipeline(line: str) -> Any:
    """A checked pipeline; its places are names in the world."""
    return load_pipeline(
        {
            "version": 1,
            "name": "t",
            "source": {"format": "parquet", "location": "/in"},
            "scan": "map_in_arrow",  # who reads is no part of the protocol
            "model": {"uri": "/m.onnx"},
            "inputs": {"x": ["a"]},
            "keys": ["id"],
            "sink": SINKS[line],
            "ledger": "/ledger",
            "on_error": {"max_fraction": 1.0},
        }
    )


def _bound(spark: Session, of: Any) -> Any:
    spark.world.model += 1
    return _job(of, spark.world.model)


def _job(of: Any, model: int) -> Any:
    ref = SimpleNamespace(location="/m.onnx", version=str(model), sha256=str(model))
    snapshot = SimpleNamespace(route="delta", rows=None)
    return SimpleNamespace(
        pipeline=of, snapshot=snapshot, model=SimpleNamespace(folder="/", flags=()), scoring=SimpleNamespace(model=ref)
    )


def _make_plan(spark: Session, job: Any, run_id: str) -> Plan:
    model = job.scoring.model.version
    files = [(InputFile(f"/in/{seq}", 1, 1, ROWS),) for seq in range(spark.world.units)]
    units = tuple(Unit.of(seq, of_unit) for seq, of_unit in enumerate(files))
    header = {
        "run_id": run_id,
        "ledger_version": LEDGER_VERSION,
        "code_version": "0",
        "pipeline_name": job.pipeline.name,
        "spec_sha256": fingerprint(job.pipeline),
        "model": {"uri": "/m.onnx", "version": model, "sha256": model},
        "input": {},
        "input_ss": False,
        "keys": ["id"],
        "where_steps": {"0": "where"},
        "sink": job.pipeline.sink.location,
        "sink_keys": job.pipeline.sink.model_dump(mode="json", exclude_defaults=True),
        "quarantine": "/bad",
        "balance_basis": "footer",
        "planned_rows": ROWS * len(units),
        "units": len(units),
        "narrowing": [],
        "warnings": [],
    }
    return Plan(header, units)


def _history(spark: Session, _: str, limit: int | None = None) -> list[Any]:
    log = spark.world.log
    newest = [SimpleNamespace(version=v, userMetadata=entry.user_metadata) for v, entry in enumerate(log)][::-1]
    return newest[:limit]


def _count_units(spark: Session, _: str, run_id: str, ids: Sequence[str]) -> Mapping[str, Committed]:
    found = {}
    for name in ids:
        rows = [row for row in spark.world.rows() if (row.run_id, row.unit_id) == (run_id, name)]
        bad = sum(row.status == "error" for row in rows)
        found[name] = Committed(len(rows) - bad, bad, frozenset(row.task_id for row in rows), ())
    return found


def _count_rows(spark: Session, _: str, run_id: str) -> dict[int, int]:
    seqs = [row.unit_seq for row in spark.world.rows() if row.run_id == run_id]
    return {seq: seqs.count(seq) for seq in seqs}


def _newest(log: Sequence[Entry], app: str) -> int:
    return max((entry.txn_version for entry in log if entry.app_id == app), default=-1)


def _sweep(_: Any) -> None:
    with threading.current_thread().at("C10"):
        pass  # files that no commit names are VACUUM's


def without_looking(patch: pytest.MonkeyPatch) -> None:
    """Let the run take for granted that what it wrote is there, and what it did not write is not."""

    def unproved(line: Any, unit: Unit, **_: Any) -> Commit:
        driver = threading.current_thread()
        return Commit(len(driver.world.log) - 1, unit.seq, unit.unit_id, driver.number + 1)

    patch.setattr(delta_line.DeltaLine, "find", unproved)
    patch.setattr(delta_line.DeltaLine, "standing", lambda _, known: (dict(known), []))


def put(patch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins where the run would call Spark."""
    patch.setattr(batch, "bound", _bound)
    patch.setattr(batch, "golden_rows", lambda *_: None)
    patch.setattr(attempt, "hand_out", lambda _, model, __: model)
    patch.setattr(DeltaTable, "make", lambda *_: None)
    for module in (delta_line, publishing):  # the rows are exact without it
        patch.setattr(module, "lease_of_table", lambda *_: nullcontext)
    patch.setattr(batch, "make_plan", _make_plan)
    patch.setattr(batch, "restore", lambda _, of, plan: _job(of, int(plan.header["model"]["version"])))
    patch.setattr(
        attempt.Attempt,
        "_unit_frame",
        lambda self, unit, _: Frame(
            self.spark, self.plan, unit, int(self.job.scoring.model.version), self.claim.attempt
        ),
    )
    for module in (commit, delta_line):
        patch.setattr(module, "history", _history)
    patch.setattr(delta_line.DeltaLine, "sweep", _sweep)
    patch.setattr(delta_line, "shut_out", _shut_out)
    patch.setattr(commit, "commit_info", lambda _, version: _info(version))
    patch.setattr(delta_line, "count_units", _count_units)
    patch.setattr(delta_line, "count_rows", _count_rows)


def _info(version: int) -> dict[str, str]:
    return {"userMetadata": threading.current_thread().world.log[version].user_metadata}
