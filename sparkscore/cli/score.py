"""`sparkscore score`: one run of a pipeline, with its progress, its verdict and its exit code."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparkscore.cli.options import AsJson, Master, PipelineFile, Sets, sets_of
from sparkscore.cli.printing import emit, next_commands, plain, say
from sparkscore.cli.progress import shown_progress
from sparkscore.cli.sessions import command_session
from sparkscore.errors import SparkscoreError
from sparkscore.run.stop import signals_as_exceptions

if TYPE_CHECKING:
    from sparkscore.ledger.plans import Plan
    from sparkscore.run.result import Summary
    from sparkscore.spec.pipeline import Pipeline

__all__ = ["FailOnQuarantine", "Order", "Result", "TakeOver", "carry_out", "score"]

log = logging.getLogger(__name__)

Result = Annotated[Path | None, typer.Option("--result", metavar="FILE", help="Write the verdict as one JSON object.")]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Do not wait for the heartbeat of a driver that is gone.")]
FailOnQuarantine = Annotated[
    bool, typer.Option("--fail-on-quarantine", help="Exit with 3 when rows are in the quarantine.")
]


@dataclass(frozen=True)
class Order:
    """What the command line asks of a run."""

    pipeline: Path | None
    run_id: str | None = None
    sets: dict[str, str] | None = None
    result: Path | None = None
    as_json: bool = False
    master: str | None = None
    take_over: bool = False
    fail_on_quarantine: bool = False
    plan: Plan | None = None  # of the run to resume, where no pipeline file is given
    requeue: bool = False  # the open bad rows of `run_id`, as a run of their own


def score(
    pipeline: PipelineFile,
    *,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="Default: <name>-<UTC time>-<6 hex>.")
    ] = None,
    sets: Sets = None,
    result: Result = None,
    as_json: AsJson = False,
    master: Master = None,
    take_over: TakeOver = False,
    fail_on_quarantine: FailOnQuarantine = False,
) -> None:
    """Score the input once into the sink. The same run id again resumes, or does nothing after success."""
    order = Order(pipeline, run_id, sets_of(sets), result, as_json, master, take_over, fail_on_quarantine)
    raise typer.Exit(carry_out(order))


def carry_out(order: Order) -> int:
    """Run a pipeline and tell how it ended; give the exit code."""
    from sparkscore.cli.verdicts import failed

    started, attempt = datetime.now(UTC), _Attempt(order)
    try:
        summary = attempt.run()
    except (SparkscoreError, KeyboardInterrupt) as cause:
        summary = failed(cause, attempt.run_id, attempt.pipeline, started)
        _tell(order, summary, failure=str(cause))
    except Exception as cause:  # boundary: whatever ended the run, --result says so
        from sparkscore.spark.failures import from_spark

        failure = from_spark(cause)
        summary = failed(failure, attempt.run_id, attempt.pipeline, started)
        _tell(order, summary, failure=str(failure))
    else:
        _tell(order, summary)
    return summary.exit_code


class _Attempt:
    """A run from its order on; keeps what is known of it for the verdict when it fails."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.run_id = order.run_id or ""
        self.pipeline: Pipeline | None = None

    def run(self) -> Summary:
        order = self.order
        with signals_as_exceptions():
            from sparkscore.run.pipeline import Pipeline, new_run_id

            if order.pipeline is not None:
                pipeline = Pipeline.load(order.pipeline, order.sets)
            else:
                assert order.plan is not None, "a run is told by a file or by its plan"
                pipeline = Pipeline.recorded(order.plan, order.sets)
            self.pipeline = pipeline.spec
            self.run_id = order.run_id or new_run_id(self.pipeline.name)
            if order.requeue:
                from sparkscore.ledger.store import open_store
                from sparkscore.run.requeue import replay_id

                self.run_id = replay_id(open_store(self.pipeline.ledger), self.run_id)
            say(f"run {self.run_id}")
            with command_session(order.master, self.pipeline.places) as spark, shown_progress() as progress:
                start = partial(pipeline.requeue, order.run_id or "") if order.requeue else pipeline.run
                run = start(
                    spark=spark,
                    **({} if order.requeue else {"run_id": self.run_id}),
                    take_over=order.take_over,
                    fail_on_quarantine=order.fail_on_quarantine,
                    progress=progress,
                    say=say,
                )
            return run.summary()


def _tell(order: Order, summary: Summary, failure: str | None = None) -> None:
    """Say how it ended; without a summary of its own, a failure is one text on stderr."""
    log.debug("run ended", exc_info=failure is not None)
    if order.result is not None:
        order.result.parent.mkdir(parents=True, exist_ok=True)
        order.result.write_text(json.dumps(plain(summary.to_json()), indent=1) + "\n", encoding="utf-8")
    if failure is not None:
        say(failure)
    text = "" if failure is not None else str(summary)
    emit(summary.to_json(), (text + _next(summary)).strip("\n"), order.as_json)


def _next(summary: Summary) -> str:
    if not summary.run_id or not summary.units:
        return ""
    at = f"{summary.run_id} --ledger {summary.ledger}"
    bad = (f"sparkscore quarantine summary {at}", f"sparkscore quarantine show {at}")
    return next_commands(f"sparkscore runs show {at}", *(bad if summary.quarantined_rows else ()))
