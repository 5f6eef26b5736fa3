"""What a run meets on its way, as events: its plan, providers, fallbacks, splits, missing receipts, refused models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sparkscore.errors import ModelError, SparkscoreError
from sparkscore.ledger.events import EventLog
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.run.budget import Totals
from sparkscore.run.planning import Bound
from sparkscore.run.proof import UnitProof
from sparkscore.runtime.providers import CPU

__all__ = ["record_cause", "record_findings", "record_plan", "rejections_recorded"]

_BEFORE_CLAIM = 0


def record_plan(events: EventLog, plan: Plan) -> None:
    """Write down what is to be scored; an attempt repeats it, under the same event id."""
    model = plan.header["model"]
    events.write(
        "run_planned",
        pipeline=plan.header["pipeline_name"],
        planned_rows=plan.header["planned_rows"],
        units=len(plan.units),
        plan_sha256=plan.sha256,
        model_uri=model["uri"],
        model_sha256=model["sha256"],
        precision=plan.header.get("precision", "as_is"),
        golden=plan.header.get("golden"),
    )
    if plan.header["input"].get("route") == "delta":
        events.write("fallback", wanted="plain files", got="Delta's reader, at most 8 units", where="source")


def record_findings(events: EventLog, unit_seq: int, proof: UnitProof, job: Bound, proofs: Iterable[UnitProof]) -> None:
    """Write down what the receipts of a proved unit tell beside its counts; a provider, when it is new in the run."""
    if proof.model_calls is None:
        events.write("receipts_missing", unit_seq=unit_seq, balance_proved=proof.in_rows is not None)
    if not any(proof.providers.keys() <= other.providers.keys() for other in proofs if other is not proof):
        device = job.pipeline.model.device
        events.write("provider_resolved", unit_seq=unit_seq, device=device, providers=proof.providers)
        if device == "auto" and CPU in proof.providers:
            events.write("fallback", unit_seq=unit_seq, wanted="cuda", got=CPU, tasks=proof.providers[CPU])
    if proof.oom_splits:
        events.write("oom_split", unit_seq=unit_seq, splits=proof.oom_splits, target_rows=proof.batch_target_rows)
    if proof.batch_mix:
        events.write("batch_mix", unit_seq=unit_seq, batches=proof.batch_mix)


def record_cause(events: EventLog, failure: SparkscoreError, totals: Totals) -> None:
    """Write down what ended a run, where that has an event of its own."""
    if failure.code == "SPS-BUDGET":
        counted = {"bad_rows": totals.bad_rows, "judged_rows": totals.judged_rows}
        events.write("budget_breached", unit_seq=failure.context.get("unit"), **counted)
    elif failure.code == "SPS-LIMIT":
        events.write("limit_reached", limit=failure.context["limit"])
    elif isinstance(failure, ModelError):
        events.write("model_rejected", code=failure.code, message=str(failure)[:2000])


@contextmanager
def rejections_recorded(store: Store, run_id: str, pipeline: Any) -> Iterator[None]:
    """Write down that a model was refused before there was an attempt to write it in: attempt 0 holds it."""
    try:
        yield
    except ModelError as failure:
        with suppress(SparkscoreError):  # the model's own failure is the one to tell
            text = {"code": failure.code, "message": str(failure)[:2000]}
            EventLog(store, run_id, _BEFORE_CLAIM).write("model_rejected", uri=pipeline.model.uri, **text)
        raise
