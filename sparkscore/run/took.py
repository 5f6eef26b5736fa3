"""What a run took by its events, and what it was predicted to take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from sparkscore.run.proof import UnitProof

__all__ = ["came_to", "hours_of", "ns_row_of", "predicted"]


def hours_of(events: Iterable[dict[str, Any]]) -> dict[int, float]:
    """Give the hours that each attempt of a run lasted, from its first event to its end."""
    own = (event for event in events if event["event"] != "tables_folded")
    by_attempt = groupby(own, key=lambda event: int(event["attempt"]))
    spans = {attempt: [datetime.fromisoformat(e["at"]) for e in found] for attempt, found in by_attempt}
    return {attempt: (max(at) - min(at)).total_seconds() / 3600 for attempt, at in spans.items()}


def ns_row_of(rows: int, task_s: float) -> float | None:
    """Give the nanoseconds of one core for a row, None where no receipt tells."""
    return round(1e9 * task_s / rows, 3) if rows and task_s else None


def predicted(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Give the hours and the nanoseconds a row that a run was predicted to take, empty where it was not."""
    told = next((event for event in events if event["event"] == "run_predicted"), None)
    return {} if told is None else {f"predicted_{name}": told[name] for name in ("hours", "ns_row")}


def came_to(hours: float, proofs: Collection[UnitProof]) -> dict[str, float | None]:
    """Give what a run took in the terms of its prediction."""
    rows, task_s = sum(proof.in_rows or 0 for proof in proofs), sum(proof.task_s for proof in proofs)
    return {"hours": round(hours, 6), "ns_row": ns_row_of(rows, task_s)}
