"""The arguments that several commands share, and where a command finds its ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparkscore.errors import error

if TYPE_CHECKING:
    from sparkscore.ledger.plans import Plan
    from sparkscore.ledger.store import Store

__all__ = [
    "AsJson",
    "Ledger",
    "Master",
    "PipelineFile",
    "RunId",
    "Sets",
    "named_plan",
    "pairs_of",
    "places_of",
    "sets_of",
    "store_of",
]

PipelineFile = Annotated[Path, typer.Argument(metavar="PIPELINE", help="The pipeline file, YAML or JSON.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Fill ${KEY}, or override the key a.b of the file. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout; all else goes to stderr.")]
Master = Annotated[
    str | None,
    typer.Option(
        *("--master", "--remote"),
        metavar="URL",
        envvar="SPARK_REMOTE",
        help="Spark master, or sc://host:port of a Spark Connect server. Default: this machine.",
    ),
]
Ledger = Annotated[
    str | None, typer.Option("--ledger", metavar="PATH", help="The ledger's folder, in place of a pipeline file.")
]


def sets_of(given: Sequence[str] | None) -> dict[str, str]:
    """Read the arguments of ``--set``; the last one of a key wins."""
    return pairs_of(given, "--set", "day=1")


def pairs_of(given: Sequence[str] | None, option: str, example: str) -> dict[str, str]:
    """Read ``KEY=VALUE`` arguments of an option; the last one of a key wins.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` for one without a key or without ``=``.
    """
    pairs = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            from sparkscore.spec.complaints import shown

            raise error(
                "SPS-SPEC-VALUE",
                f"Expected {option} KEY=VALUE, got {shown(text)}.",
                f"Write, for example, {option} {example}.",
            )
        pairs[key] = value
    return pairs


def store_of(pipeline: Path | None, ledger: str | None, sets: Sequence[str] | None) -> Store:
    """Open the ledger that a command means: the folder given, else that of the pipeline file.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` when neither or both are given.
    """
    from sparkscore.ledger.store import open_store
    from sparkscore.spec.pipeline import load_pipeline

    if (pipeline is None) == (ledger is None):
        got = "neither" if ledger is None else "both"
        raise error("SPS-SPEC-VALUE", f"Expected a pipeline file or --ledger, got {got}.", "Give one of them.")
    return open_store(ledger if pipeline is None else load_pipeline(pipeline, sets_of(sets)).ledger)  # type: ignore[arg-type]  # one of them is given


def named_plan(store: Store, run_id: str) -> Plan:
    """Read the plan of a run.

    Raises
    ------
    SpecError
        `SPS-RUN-UNKNOWN`, with the newest runs that the ledger does hold.
    """
    from sparkscore.ledger.fold import run_ids
    from sparkscore.ledger.plans import read_plan

    plan = read_plan(store, run_id)
    if plan is None:
        known = ", ".join(run_ids(store)[-5:]) or "no run"
        raise error(
            "SPS-RUN-UNKNOWN",
            f"Expected a run of the ledger {store.root}. Got {run_id}; it holds {known}.",
            "See `sparkscore runs list`.",
            run=run_id,
        )
    return plan


def places_of(store: Store, plan: Plan) -> tuple[str, str, str]:
    """Give the places of a run that a later command reads or writes: its ledger, sink and quarantine."""
    from sparkscore.ledger.events import read_events
    from sparkscore.ledger.fold import quarantine_of

    return (store.root, plan.header["sink"], quarantine_of(read_events(store, plan.run_id), plan))
