"""The proof of a unit: exactly one commit holds it, its rows balance, and two independent counts agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sparkscore.errors import error
from sparkscore.ledger.fold import committed
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.budget import Totals
from sparkscore.run.line import Line, gap
from sparkscore.spark.commit import Commit, Committed

__all__ = ["UnitProof", "prove", "receipted", "recorded_proofs"]


@dataclass(frozen=True)
class UnitProof:
    """What is known of a committed unit, from its rows and from the receipts of the tasks that wrote them."""

    commit: Commit
    ok_rows: int
    bad_rows: int
    bad_by_code: dict[str, int]
    output_files: tuple[tuple[str, int], ...]
    in_rows: int
    filtered_rows: dict[int, int] = field(default_factory=dict)
    scored_rows: int = 0
    model_calls: int = 0
    proof_calls: int = 0
    rows_truncated: int = 0
    peak_rss_bytes: int = 0
    providers: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def totals(self) -> Totals:
        """The unit's rows."""
        return Totals(self.ok_rows, self.bad_rows, sum(self.filtered_rows.values()))

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


def receipted(store: Store, run_id: str, commit: Commit) -> Totals:
    """Give the rows of a committed unit as its tasks' receipts tell them, before they are proved.

    Attempts of one partition read the same rows, so any receipt of it will do.
    """
    of_partition = {r["partition"]: r for r in _receipts(store, run_id, commit.unit_seq, commit.attempt)}.values()
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
    proof = UnitProof(
        commit=commit,
        ok_rows=committed.ok_rows,
        bad_rows=committed.bad_rows,
        bad_by_code=dict(by_code),
        output_files=committed.files,
        in_rows=sum(r["rows_in"] for r in receipts),
        filtered_rows=dict(filtered),
        scored_rows=sum(r["rows_scored"] for r in receipts),
        model_calls=sum(r["model_calls"] for r in receipts),
        proof_calls=sum(r["proof_calls"] for r in receipts),
        rows_truncated=sum(r["rows_truncated"] for r in receipts),
        peak_rss_bytes=max((r["peak_rss_bytes"] for r in receipts), default=0),
        providers=dict(providers),
        versions=versions,
    )
    _assert_balance(proof, receipts, None if plan.header["balance_basis"] == "receipt" else unit.rows, plan.run_id)
    return proof


def recorded_proofs(events: Iterable[dict[str, Any]]) -> dict[int, UnitProof]:
    """Take back, from a run's events, the proofs of the units that its attempts recorded as committed."""
    found = {}
    names = {f.name for f in fields(UnitProof)}
    for seq, event in committed(events).items():
        commit = Commit(event["committed_version"], seq, event["unit_id"], event["commit_attempt"])
        facts = {k: v for k, v in event.items() if k in names}
        facts["output_files"] = tuple((path, size) for path, size in event["output_files"])
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
    filtered = sum(proof.filtered_rows.values())
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
