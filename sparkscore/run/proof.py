"""The proof of a unit: exactly one commit holds it, its rows balance, and two independent counts agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sparkscore.errors import error
from sparkscore.ledger.fold import committed
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.budget import Totals
from sparkscore.run.line import Line, gap
from sparkscore.scoring.counts import TEXT_COUNTS
from sparkscore.spark.commit import Commit, Committed

__all__ = ["UnitProof", "prove", "receipted", "recorded_proofs"]


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
    tokens: int = 0
    tokens_computed: int = 0
    oom_splits: int = 0
    batch_mix: int = 0
    guard_deaths: int = 0
    batch_target_rows: int = 0
    call_buckets: tuple[int, ...] = ()
    model_ms: float = 0.0
    peak_rss_bytes: int = 0
    tasks: int = 0
    busy_tasks: int = 0  # that had a row
    task_s: float = 0.0
    longest_task_s: float = 0.0
    providers: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def totals(self) -> Totals:
        """The unit's rows."""
        return Totals(self.ok_rows, self.bad_rows, sum((self.filtered_rows or {}).values()))

    @property
    def committed_rows(self) -> int:
        """The unit's rows in the sink."""
        return self.ok_rows + self.bad_rows


def prove(line: Line, plan: Plan, commits: Sequence[Commit], store: Store) -> Iterator[UnitProof]:
    """Count the committed rows of units, and hold them, one unit after another, against the plan and the receipts.

    Raises
    ------
    RecordError
        `SPS-BALANCE`, with both sides.
    """
    counted = line.count(commits)
    for commit in commits:
        yield _proof(plan, commit, counted[commit.unit_id], store)


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
    summed = ("proof_calls", "model_calls", "oom_splits", "batch_mix", "guard_deaths", "model_ms", *TEXT_COUNTS)
    return {
        "bad_by_code": dict(by_code),
        "in_rows": sum(r["rows_in"] for r in receipts),
        "scored_rows": sum(r["rows_scored"] for r in receipts),
        "filtered_rows": dict(filtered),
        **{name: sum(r.get(name, 0) for r in receipts) for name in summed},  # an earlier version's lacks some
        "call_buckets": tuple(map(sum, zip(*(r["call_buckets"] for r in receipts), strict=True))),
        "batch_target_rows": max(r["batch_target_rows"] for r in receipts),
        "peak_rss_bytes": max(r["peak_rss_bytes"] for r in receipts),
        "tasks": len(receipts),
        "busy_tasks": sum(1 for r in receipts if r["rows_in"]),
        "task_s": round(sum(r["wall_s"] for r in receipts), 3),
        "longest_task_s": max(r["wall_s"] for r in receipts),
        "providers": dict(providers),
        "versions": versions,
    }


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
    if receipted and not committed:  # a commit holds its unit whole or not at all: somebody took its rows afterwards
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
    committed, whole = proof.committed_rows, not plan.header["where_steps"]
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
