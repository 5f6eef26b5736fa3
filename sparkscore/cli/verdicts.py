"""How a run ended, as one object: the same verdict for the process's exit code, ``--result`` and the ledger."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sparkscore.errors import SparkscoreError
from sparkscore.run.result import Summary
from sparkscore.run.stop import StopSignal

if TYPE_CHECKING:
    from sparkscore.spec.pipeline import Pipeline

__all__ = ["failed"]

_STATES = {"SPS-FENCED": "FENCED", "SPS-LIMIT": "STOPPED"}


def failed(cause: BaseException, run_id: str, pipeline: Pipeline | None, started_at: datetime) -> Summary:
    """Give the verdict of a run that did not succeed.

    When it got as far as an attempt, the ledger has it, with the counts; otherwise nothing was scored.

    Parameters
    ----------
    cause : SparkscoreError or KeyboardInterrupt
    run_id : str
        Empty when the run had no id yet.
    pipeline : sparkscore.spec.pipeline.Pipeline or None
        None when the file was not read.
    started_at : datetime
        UTC, when the command began.
    """
    verdict = _verdict(cause, run_id, pipeline, started_at)
    recorded = _recorded(run_id, pipeline)
    same = recorded is not None and (recorded.exit_code, recorded.code) == (verdict.exit_code, verdict.code)
    # A run that another driver owns, or that an earlier attempt ended otherwise, is not this attempt's record.
    return recorded if recorded is not None and same else verdict


def _verdict(cause: BaseException, run_id: str, pipeline: Pipeline | None, started_at: datetime) -> Summary:
    if isinstance(cause, SparkscoreError):
        exit_code, code, state = cause.exit_code, cause.code, _STATES.get(cause.code, "FAILED")
    else:
        exit_code = 128 + (cause.signum if isinstance(cause, StopSignal) else 2)
        code, state = None, "STOPPED"
    uri = pipeline.model.uri if pipeline else None
    return Summary(
        run_id=run_id,
        state=state,
        exit_code=exit_code,
        code=code,
        message=str(cause) or "".join(traceback.format_exception_only(cause)).strip(),
        planned_rows=None,
        ok_rows=0,
        quarantined_rows=0,
        filtered_rows={},
        units=0,
        model={"uri": uri, "version": None, "sha256": None},
        providers={},
        scan="map_in_arrow",
        sink=pipeline.sink.place if pipeline else "",
        quarantine=str(pipeline.quarantine.location or "") if pipeline else "",
        ledger=pipeline.ledger if pipeline else "",
        started_at=started_at.isoformat(),
        ended_at=datetime.now(UTC).isoformat(),
        rows_per_s=None,
    )


def _recorded(run_id: str, pipeline: Pipeline | None) -> Summary | None:
    from sparkscore.ledger.events import attempts
    from sparkscore.ledger.plans import read_plan
    from sparkscore.ledger.store import open_store
    from sparkscore.run.summaries import summary_of

    if pipeline is None or not run_id:
        return None
    try:
        store = open_store(pipeline.ledger)
        plan = read_plan(store, run_id)
        return summary_of(store, plan) if plan is not None and attempts(store, run_id) else None
    except SparkscoreError:  # the ledger itself is what failed
        return None
