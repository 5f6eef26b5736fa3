"""The proof of a unit: exactly one commit holds it, its rows balance, and two independent counts agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from sparkscore.errors import error
from sparkscore.ledger.fold import committed
from sparkscore.ledger.plans import Plan, Unit
from sparkscore.ledger.store import Store
from sparkscore.run.budget import Totals
from sparkscore.spark.commit import Commit, Committed, commits_of, count_rows, count_units, own_commit
from sparkscore.spark.delta_log import history

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["UnitProof", "assert_held", "find_commit", "gap", "prove", "receipted", "recorded_proofs", "standing"]

_RECENT = 20  # commits of other writers that may lie on top of ours before the whole history is read


@dataclass(frozen=True)
class UnitProof:
    """What is known of a committed unit, from its rows and from the receipts of the tasks that wrote them.

    Where a task could not write its receipt, what only receipts tell is None or empty.
    """

    commit: Commit
    ok_rows: int
    bad_rows: int
    bad_by_code: dict[str, int]
    output_files: tuple[tuple[str, int], ...]
    in_rows: int | None
    filtered_rows: dict[int, int] | None = field(default_factory=dict)
    scored_rows: int | None = 0
    model_calls: int | None = 0
    proof_calls: int = 0
    rows_truncated: int = 0
    oom_splits: int = 0
    batch_mix: int = 0
    guard_deaths: int = 0
    batch_target_rows: int = 0
    call_buckets: tuple[int, ...] = ()
    model_ms: float = 0.0
    peak_rss_bytes: int = 0
    providers: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def totals(self) -> Totals:
        """The unit's rows."""
        return Totals(self.ok_rows, self.bad_rows, sum((self.filtered_rows or {}).values()))


def find_commit(spark: SparkSession, location: str, run_id: str, unit: Unit, *, again: bool = False) -> Commit | None:
    """Find the one commit of a unit, None when there is none; what this session committed last is looked at first.

    `again` says that the unit is made again, below commits of later units.

    Raises
    ------
    RecordError
        `SPS-TXN-SKIPPED` when Delta skipped the write because the run's transactions are past the unit, or when
        the commit under the unit's number holds other files.
    """
    own = own_commit(spark, location, run_id)
    if own is not None and (own.unit_seq, own.unit_id) == (unit.seq, unit.unit_id):
        return own
    commits = commits_of(spark, location, run_id, _RECENT) or commits_of(spark, location, run_id)
    found = [c for c in commits if c.unit_seq == unit.seq]
    if not found and not again and any(c.unit_seq > unit.seq for c in commits):
        newest = max(c.unit_seq for c in commits)
        raise _skipped(f"unit {unit.seq} to be committed", f"none, and unit {newest} is", run_id)
    if len(found) > 1:
        raise _skipped(f"one commit of unit {unit.seq}", f"{len(found)}", run_id)
    if found and found[0].unit_id != unit.unit_id:
        raise _skipped(f"unit {unit.seq} with id {unit.unit_id[:12]}", f"id {found[0].unit_id[:12]}", run_id)
    return found[0] if found else None


def prove(spark: SparkSession, plan: Plan, commits: Sequence[Commit], store: Store) -> Iterator[UnitProof]:
    """Count the committed rows of units, by one query, and hold them, one after another, against the plan and the
    receipts.

    Raises
    ------
    RecordError
        `SPS-BALANCE`, with both sides.
    """
    ids = [plan.units[commit.unit_seq].unit_id for commit in commits]
    counted = count_units(spark, plan.header["sink"], plan.run_id, ids)
    for commit, unit_id in zip(commits, ids, strict=True):
        yield _proof(plan, commit, counted[unit_id], store)


def receipted(store: Store, run_id: str, commit: Commit) -> Totals | None:
    """Give the rows of a committed unit as its tasks' receipts tell them, before they are proved; None without any.

    Attempts of one partition read the same rows, so any receipt of it will do.
    """
    of_partition = {r["partition"]: r for r in _receipts(store, run_id, commit.unit_seq, commit.attempt)}.values()
    if not of_partition:
        return None
    return Totals(
        ok_rows=sum(r["rows_ok"] for r in of_partition),
        bad_rows=sum(r["rows_bad"] for r in of_partition),
        filtered_rows=sum(sum(r["rows_filtered"].values()) for r in of_partition),
    )


def _proof(plan: Plan, commit: Commit, committed: Committed, store: Store) -> UnitProof:
    """Join a unit's committed rows with its receipts.

    The receipts that count are those whose task wrote committed rows; for a partition without rows, that of its
    lowest task. So a retried or speculated task is counted once.
    """
    unit = plan.units[commit.unit_seq]
    receipts = _counting(_receipts(store, plan.run_id, unit.seq, commit.attempt), committed)
    planned = None if plan.header["balance_basis"] == "receipt" else unit.rows
    from_rows: dict[str, Any] = {
        "commit": commit,
        "ok_rows": committed.ok_rows,
        "bad_rows": committed.bad_rows,
        "output_files": committed.files,
    }
    if not receipts or not committed.task_attempt_ids <= {r["task_attempt_id"] for r in receipts}:
        proof = _unreceipted(from_rows, planned, plan)
    else:
        proof = UnitProof(**from_rows, **_counted(receipts))
        _assert_balance(proof, receipts, planned, plan.run_id)
    return proof


def _counted(receipts: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the receipts that count."""
    filtered: Counter[int] = Counter()
    by_code: Counter[str] = Counter()
    providers: Counter[str] = Counter()
    versions: dict[str, str] = {}
    for receipt in receipts:
        filtered.update({int(step): rows for step, rows in receipt["rows_filtered"].items()})
        by_code.update(receipt["bad_by_code"])
        if receipt["rows_in"]:
            providers[receipt["provider"]] += 1
        versions.update(receipt["versions"])
    summed = ("proof_calls", "rows_truncated", "model_calls", "oom_splits", "batch_mix", "guard_deaths", "model_ms")
    return {
        "bad_by_code": dict(by_code),
        "in_rows": sum(r["rows_in"] for r in receipts),
        "scored_rows": sum(r["rows_scored"] for r in receipts),
        "filtered_rows": dict(filtered),
        **{name: sum(r[name] for r in receipts) for name in summed},
        "call_buckets": tuple(map(sum, zip(*(r["call_buckets"] for r in receipts), strict=True))),
        "batch_target_rows": max(r["batch_target_rows"] for r in receipts),
        "peak_rss_bytes": max(r["peak_rss_bytes"] for r in receipts),
        "providers": dict(providers),
        "versions": versions,
    }


def standing(
    spark: SparkSession, location: str, plan: Plan, known: Mapping[int, Commit]
) -> tuple[dict[int, Commit], list[int]]:
    """Tell which units the sink's log holds, and which it has lost to another writer: of those that are known to be
    committed, and of those below the highest that is there.

    A known commit that is older than the log reaches was cleaned away, not lost; its rows are counted in any case.

    Raises
    ------
    RecordError
        `SPS-LEDGER-GAP` when a unit is there twice, at another version than is known, with other files under its
        number, or when the log does not reach back far enough to tell.
    """
    there: dict[int, Commit] = {}
    for commit in commits_of(spark, location, plan.run_id):
        planned = plan.units[commit.unit_seq : commit.unit_seq + 1]
        if [unit.unit_id for unit in planned] != [commit.unit_id]:
            raise gap(f"unit {commit.unit_seq} as planned", "other files under its number", plan.run_id)
        if there.setdefault(commit.unit_seq, commit) is not commit:
            raise gap(f"one commit of unit {commit.unit_seq}", "two", plan.run_id)
        version = known[commit.unit_seq].version if commit.unit_seq in known else commit.version
        if version != commit.version:
            raise gap(f"unit {commit.unit_seq} at version {version}", f"version {commit.version}", plan.run_id)
    absent = [seq for seq in range(max([*there, *known], default=-1) + 1) if seq not in there]
    oldest = min((row.version for row in history(spark, location)), default=0) if absent else 0
    for seq in absent:
        if seq not in known and oldest > 0:
            raise gap(f"unit {seq}, which later units stand on", f"a log that begins at version {oldest}", plan.run_id)
        if seq in known and known[seq].version < oldest:
            there[seq] = known[seq]
    return there, [seq for seq in absent if seq not in there]


def assert_held(spark: SparkSession, location: str, plan: Plan, proofs: Mapping[int, UnitProof]) -> None:
    """Prove that the rows of proved units are still there: RESTORE, DELETE or an overwrite leaves their commits in the
    table's history and takes the rows.

    Raises
    ------
    RecordError
        `SPS-LEDGER-GAP` when rows are missing, or more than were committed.
    """
    held = count_rows(spark, location, plan.run_id) if proofs else {}
    for seq, proof in proofs.items():
        committed = proof.ok_rows + proof.bad_rows
        if held.get(seq, 0) != committed:
            raise gap(f"{committed} rows of unit {seq}", f"{held.get(seq, 0)}", plan.run_id)


def recorded_proofs(events: Iterable[dict[str, Any]]) -> dict[int, UnitProof]:
    """Take back, from a run's events, the proofs of the units that its attempts recorded as committed."""
    found = {}
    names = {f.name for f in fields(UnitProof)}
    for seq, event in committed(events).items():
        commit = Commit(event["committed_version"], seq, event["unit_id"], event["commit_attempt"])
        facts = {k: v for k, v in event.items() if k in names}
        facts["output_files"] = tuple((path, size) for path, size in event["output_files"])
        if event["filtered_rows"] is not None:
            facts["filtered_rows"] = {int(step): rows for step, rows in event["filtered_rows"].items()}
        found[seq] = UnitProof(commit=commit, bad_rows=event["quarantined_rows"], **facts)
    return found


def gap(expected: str, got: str, run_id: str) -> Exception:
    """The error of a sink that does not hold the units that the ledger says it holds."""
    return error(
        "SPS-LEDGER-GAP",
        f"Expected the sink to hold {expected}. Got {got}.",
        "Another writer removed or overwrote commits: look at DESCRIBE HISTORY of the sink, then start a new run id.",
        run=run_id,
    )


def _receipts(store: Store, run_id: str, unit_seq: int, attempt: int) -> list[dict[str, Any]]:
    folder = f"receipts/{run_id}/{unit_seq}"
    found = [json.loads(store.get(f"{folder}/{name}") or b"{}") for name in store.names(folder)]
    return [r for r in found if r.get("attempt") == attempt]


def _counting(receipts: list[dict[str, Any]], committed: Committed) -> list[dict[str, Any]]:
    by_partition: dict[int, dict[str, Any]] = {}
    for receipt in sorted(receipts, key=lambda r: r["task_attempt_id"], reverse=True):
        partition, wrote = receipt["partition"], receipt["task_attempt_id"] in committed.task_attempt_ids
        known = by_partition.get(partition)
        if wrote or known is None or known["task_attempt_id"] not in committed.task_attempt_ids:
            by_partition[partition] = receipt
    return list(by_partition.values())


def _assert_balance(proof: UnitProof, receipts: list[Any], planned: int | None, run_id: str) -> None:
    filtered = sum((proof.filtered_rows or {}).values())
    committed = proof.ok_rows + proof.bad_rows
    receipted = sum(r["rows_ok"] + r["rows_bad"] for r in receipts)
    planned = proof.in_rows if planned is None else planned
    named = sum(proof.bad_by_code.values())
    if receipted and not committed:  # Delta takes a unit whole or not at all: somebody took its rows afterwards
        raise gap(f"{receipted} rows of unit {proof.commit.unit_seq}", "none", run_id)
    if planned != committed + filtered or (receipted, named, proof.in_rows) != (committed, proof.bad_rows, planned):
        raise error(
            "SPS-BALANCE",
            f"Expected planned = ok + quarantined + filtered. Got planned {planned}, ok {proof.ok_rows}, quarantined "
            f"{proof.bad_rows}, filtered {filtered}; receipts say {proof.in_rows} in and {receipted} out.",
            "Do not use the unit's rows; report it with the ledger folder. A new run id scores everything again.",
            run=run_id,
            unit=proof.commit.unit_seq,
        )


def _unreceipted(rows: dict[str, Any], planned: int | None, plan: Plan) -> UnitProof:
    """Judge a unit whose tasks could not write their receipts by what remains: the plan and the committed rows.

    Without a `prepare: where` step, planned = ok + quarantined is as good a proof as ever. With one, or where the plan
    cannot tell the rows, a row that is missing cannot be told from one that was dropped: only more rows than planned
    are found.
    """
    proof = UnitProof(**rows, bad_by_code={}, in_rows=None, filtered_rows=None, scored_rows=None, model_calls=None)
    committed, whole = proof.ok_rows + proof.bad_rows, not plan.header["where_steps"]
    if planned is not None and (committed > planned or (whole and committed != planned)):
        raise error(
            "SPS-BALANCE",
            f"Expected planned = ok + quarantined. Got planned {planned}, ok {proof.ok_rows}, quarantined "
            f"{proof.bad_rows}; the tasks' receipts are missing.",
            "Do not use the unit's rows; report it with the ledger folder. A new run id scores everything again.",
            run=plan.run_id,
            unit=proof.commit.unit_seq,
        )
    return proof if planned is None or not whole else replace(proof, in_rows=planned, filtered_rows={})


def _skipped(expected: str, got: str, run_id: str) -> Exception:
    return error(
        "SPS-TXN-SKIPPED",
        f"Expected {expected}. Got {got}.",
        "The run id was used before with another plan on this sink; start a new run id.",
        run=run_id,
    )
