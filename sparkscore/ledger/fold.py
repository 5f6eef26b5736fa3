"""Events folded to rows: the `runs` and `units` tables and a run's state, as pure functions of what is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sparkscore.ledger.events import CLOSING, attempts, read_claim, read_events
from sparkscore.ledger.liveness import last_sign
from sparkscore.ledger.plans import Plan, read_plan
from sparkscore.ledger.store import Store
from sparkscore.tables import RUNS, UNITS

__all__ = ["committed", "filtered_by_name", "quarantine_of", "run_ids", "run_rows", "state_of", "unit_rows"]

_STATES = {"run_closed": "SUCCEEDED", "run_failed": "FAILED", "run_stopped": "STOPPED", "run_fenced": "FENCED"}
_COMMITTED = ("unit_committed", "unit_reused")


def run_ids(store: Store) -> list[str]:
    """List the runs that the ledger knows, by the names of their plans."""
    return [name.removesuffix(".json") for name in store.names("plans") if name.endswith(".json")]


def state_of(events: Iterable[dict[str, Any]]) -> str:
    """Give the state that a run's events add up to; an open attempt is RUNNING, whether or not its driver lives.

    `run_rows` knows the difference: it calls an attempt whose driver is gone ABANDONED.
    """
    state = "PLANNED"
    for event in events:
        name = event["event"]
        if name == "run_discarded":
            return "DISCARDED"
        if state != "SUCCEEDED":  # what comes after `run_closed`, such as a signal during the last fold, undoes nothing
            state = _STATES.get(name, "RUNNING" if name not in CLOSING else state)
    return state


def committed(events: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Give, by unit, the first event that says it is committed: a resume only repeats what is known.

    A commit that was lost to another writer does not stand; the one that was made in its place does.
    """
    standing: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "commit_lost":
            standing.pop(event["unit_seq"], None)
        elif event["event"] in _COMMITTED:
            standing.setdefault(event["unit_seq"], event)
    return standing


def quarantine_of(events: Iterable[dict[str, Any]], plan: Plan) -> str:
    """Give the place of a run's bad rows: the newest attempt's, since each fold merges the whole run's there."""
    places = [event["quarantine"] for event in events if "quarantine" in event]
    return str(places[-1] if places else plan.header["quarantine"])


def unit_rows(store: Store, run_id: str) -> list[dict[str, Any]]:
    """Fold a run's events to rows of `sparkscore.tables.UNITS`, one for each planned unit, in order."""
    plan = read_plan(store, run_id)
    if plan is None:
        return []
    events = read_events(store, run_id)
    failed = {event["unit_seq"]: event for event in reversed(events) if event["event"] == "unit_failed"}
    last = failed | committed(events)
    return [_unit_row(plan, unit.seq, last.get(unit.seq)) for unit in plan.units]


def run_rows(store: Store, run_id: str) -> list[dict[str, Any]]:
    """Fold a run's events to rows of `sparkscore.tables.RUNS`, one for each attempt."""
    plan = read_plan(store, run_id)
    if plan is None:
        return []
    every = read_events(store, run_id)
    discarded = any(e["event"] == "run_discarded" for e in every)
    rows = []
    numbers = attempts(store, run_id)
    for attempt in numbers:
        upto = [e for e in every if e["attempt"] <= attempt]
        own = [e for e in every if e["attempt"] == attempt]
        row = _run_row(plan, attempt, own, upto)
        row["started_at"] = row["started_at"] or _time(read_claim(store, run_id, attempt)["claimed_at"])
        if not any(e["event"] in CLOSING for e in own):
            row.update(_open_attempt(store, run_id, attempt, numbers[-1]))
        rows.append(row | ({"state": "DISCARDED"} if discarded else {}))
    return rows


def _open_attempt(store: Store, run_id: str, attempt: int, newest: int) -> dict[str, Any]:
    """Apply the dead-man rule to an attempt that did not close."""
    if attempt < newest:
        return {"state": "ABANDONED", "error_message": f"it did not close; attempt {newest} took the run over"}
    sign = last_sign(store, run_id, attempt)
    if not sign.is_dead:
        return {"heartbeat_at": sign.at}
    message = f"its driver {sign.why}; start the same run id again, which resumes"
    return {"state": "ABANDONED", "error_message": message, "heartbeat_at": sign.at}


def filtered_by_name(plan: Plan, filtered: dict[str, int] | None) -> dict[str, int] | None:
    """Name the prepare steps of a count by index; None, for want of receipts, stays None."""
    if filtered is None:
        return None
    names = plan.header.get("where_steps", {})
    return {names.get(str(step), str(step)): rows for step, rows in filtered.items()}


def _unit_row(plan: Plan, seq: int, event: dict[str, Any] | None) -> dict[str, Any]:
    unit = plan.units[seq]
    row: dict[str, Any] = dict.fromkeys(c.name for c in UNITS)
    row.update(
        run_id=plan.run_id,
        unit_seq=seq,
        unit_id=unit.unit_id,
        state="PLANNED",
        files=[f.path for f in unit.files],
        planned_rows=None if plan.header["balance_basis"] == "receipt" else unit.rows,
        filtered_rows={},
        output_files=[],
    )
    if event is None:
        return row
    row.update({k: v for k, v in event.items() if k in row and k not in ("run_id", "unit_seq", "unit_id")})
    row["state"] = {"unit_committed": "COMMITTED", "unit_reused": "REUSED"}.get(event["event"], "FAILED")
    row["filtered_rows"] = filtered_by_name(plan, event.get("filtered_rows", {}))
    row["output_files"] = [tuple(f) for f in event.get("output_files", [])]
    return row


def _run_row(plan: Plan, attempt: int, own: list[dict[str, Any]], upto: list[dict[str, Any]]) -> dict[str, Any]:
    first = next((e for e in own if e["event"] == "run_claimed"), own[0] if own else {})
    closing = next((e for e in own if e["event"] in CLOSING), {})
    row: dict[str, Any] = dict.fromkeys(c.name for c in RUNS)
    row.update(_planned_facts(plan))
    row.update({k: first.get(k) for k in ("library_versions", "spark_version", "spark_app_id", "device")})
    row.update(_counts(plan, own, upto))
    row.update(
        attempt=attempt,
        state=state_of(own),
        exit_code=closing.get("exit_code"),
        error_code=closing.get("code"),
        error_message=closing.get("message"),
        started_at=_time(first.get("at")),
        ended_at=_time(closing.get("at")),
    )
    return row


def _planned_facts(plan: Plan) -> dict[str, Any]:
    header = plan.header
    snapshot = {k: v for k, v in header["input"].items() if k != "schema"}
    return {
        "run_id": plan.run_id,
        "kind": header.get("kind", "batch"),
        "pipeline_name": header["pipeline_name"],
        "spec_sha256": header["spec_sha256"],
        "code_version": header["code_version"],
        "model_uri": header["model"]["uri"],
        "model_version": header["model"]["version"],
        "model_sha256": header["model"]["sha256"],
        "input_snapshot": json.dumps(snapshot, sort_keys=True),
        "sink_location": header["sink"],
        "units_total": len(plan.units),
        "balance_basis": header["balance_basis"],
    }


def _counts(plan: Plan, own: list[dict[str, Any]], upto: list[dict[str, Any]]) -> dict[str, Any]:
    units = committed(upto)
    mine = [e for e in own if e["event"] == "unit_committed" and units.get(e["unit_seq"]) is e]
    wall_s = sum(e["wall_ms"] for e in mine) / 1000
    rows = sum(e["ok_rows"] + e["quarantined_rows"] for e in mine)
    return {
        "providers_used": _added(u["providers"] for u in units.values()) or {},
        "units_committed": len(mine),
        "units_reused": len(units) - len(mine),
        "planned_rows": _planned(plan, units),
        "filtered_rows": filtered_by_name(plan, _added(u["filtered_rows"] for u in units.values())),
        "quarantined_by_code": _added(u["bad_by_code"] for u in units.values()) or {},
        "balance_ok": _balance(plan, units),
        "rows_per_s": rows / wall_s if wall_s else None,
        **{
            k: _sum(u[k] for u in units.values()) for k in ("ok_rows", "quarantined_rows", "scored_rows", "model_calls")
        },
    }


def _balance(plan: Plan, units: dict[int, dict[str, Any]]) -> bool | None:
    """Tell whether each row is accounted for; None where receipts are missing that alone could tell."""
    if any(u["in_rows"] is None for u in units.values()):
        return None
    return len(units) == len(plan.units)


def _sum(counts: Iterable[int | None]) -> int | None:
    """Add counts up; what one unit cannot tell, the run cannot tell."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _added(counts: Iterable[dict[str, int] | None]) -> dict[str, int] | None:
    total: Counter[str] = Counter()
    for count in counts:
        if count is None:
            return None
        total.update(count)
    return dict(total)


def _planned(plan: Plan, units: dict[int, dict[str, Any]]) -> int | None:
    if plan.header["planned_rows"] is not None:
        return int(plan.header["planned_rows"])
    return _sum(u["in_rows"] for u in units.values()) if len(units) == len(plan.units) else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
