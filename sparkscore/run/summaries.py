"""The summary of a run, made from the ledger alone, so that `runs show` and the run itself say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparkscore.errors import Exit
from sparkscore.ledger.events import read_events
from sparkscore.ledger.fold import committed, quarantine_of, run_rows
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.golden import Deviation
from sparkscore.run.result import Summary
from sparkscore.run.took import hours_of, ns_row_of, predicted
from sparkscore.scoring.counts import TEXT_COUNTS

__all__ = ["summary_of"]


def _unreceipted(plan: Plan, units: dict[int, dict[str, Any]]) -> list[str]:
    """Say what is not known for want of receipts, and what is proved all the same."""
    missing = [seq for seq, event in units.items() if event["model_calls"] is None]
    if not missing:
        return []
    if all(units[seq]["in_rows"] is not None for seq in missing):
        proved = "rows planned = ok + quarantined is proved from the committed rows"
    elif plan.header["planned_rows"] is None:
        proved = "nothing tells how many rows there were, so a lost row would not show"
    else:
        proved = "a row that prepare dropped cannot be told from a lost one; more rows than planned there are not"
    return [
        f"the tasks of {len(missing)} of {len(plan.units)} units could not write their receipts to the ledger: model "
        f"calls, dropped rows and the provider that ran are not known; {proved}"
    ]


def _exit_code(row: dict[str, Any]) -> int:
    """Give an attempt's exit code; one whose driver is gone wrote none, and is as good as an unnamed failure."""
    return int(row["exit_code"] or (Exit.FAILED if row["state"] == "ABANDONED" else Exit.OK))


def _took(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    units = committed(events).values()
    rows, task_s = sum(u["in_rows"] or 0 for u in units), sum(u.get("task_s", 0.0) for u in units)
    return {
        "hours": sum(hours_of(events).values()),
        "ns_row": ns_row_of(rows, task_s),
        **predicted(events),
    }


def summary_of(store: Store, plan: Plan) -> Summary:
    """Summarise the newest attempt of a run."""
    rows = run_rows(store, plan.run_id)
    row: dict[str, Any] = rows[-1]
    model = plan.header["model"]
    events = read_events(store, plan.run_id)
    before = {"scan": "map_in_arrow", "scan_reason": ""}  # of runs by earlier versions
    chosen = next((e for e in reversed(events) if "scan" in e), before)
    units = {e["unit_seq"]: e for e in events if "rows_truncated" in e}.values()  # a resume repeats a unit
    rows_truncated, tokens, tokens_computed = (sum(e.get(name, 0) for e in units) for name in TEXT_COUNTS)
    weights = plan.header.get("weights", {"name": "fast", "why": ""})
    deviates = (plan.header.get("golden") or {}).get("deviation")
    return Summary(
        run_id=plan.run_id,
        state=row["state"],
        exit_code=_exit_code(row),
        code=row["error_code"],
        message=row["error_message"],
        planned_rows=row["planned_rows"],
        ok_rows=row["ok_rows"],
        quarantined_rows=row["quarantined_rows"],
        filtered_rows=row["filtered_rows"],
        units=row["units_total"],
        model={"uri": model["uri"], "version": model["version"], "sha256": model["sha256"]},
        providers=row["providers_used"],
        scan=chosen["scan"],
        scan_reason=chosen["scan_reason"],
        weights=weights["name"],
        weights_reason=weights["why"],
        precision=plan.header.get("precision", "as_is"),
        deviation=deviates and Deviation(**deviates),
        sink=plan.header["sink"],
        quarantine=quarantine_of(events, plan),
        ledger=store.root,
        started_at=rows[0]["started_at"].isoformat(),
        ended_at=row["ended_at"].isoformat() if row["ended_at"] else "",
        rows_per_s=row["rows_per_s"],
        model_calls=row["model_calls"],
        attempt=row["attempt"],
        reused_units=row["units_reused"],
        quarantined_by_code=row["quarantined_by_code"],
        **_took(events),
        truncated_rows=rows_truncated,
        tokens=tokens,
        tokens_computed=tokens_computed,
        warnings=(*plan.header["warnings"], *_unreceipted(plan, committed(events))),
    )
