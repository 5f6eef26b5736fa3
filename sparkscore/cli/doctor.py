"""`sparkscore doctor`: what would trouble a run here, each finding with its remedy; exit 4 when one would end it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparkscore.cli.options import AsJson, Master, Sets, sets_of
from sparkscore.cli.printing import emit, say
from sparkscore.cli.sessions import answering_session
from sparkscore.errors import Exit, SparkscoreError, error

if TYPE_CHECKING:
    from sparkscore.run.doctor.checks import Check
    from sparkscore.spec.pipeline import Pipeline

__all__ = ["doctor"]


def doctor(
    pipeline: Annotated[
        Path | None, typer.Argument(metavar="[PIPELINE]", help="Whose places and settings are checked, too.")
    ] = None,
    *,
    on_cluster: Annotated[
        bool, typer.Option("--on-cluster", help="Let every executor answer, not one worker.")
    ] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Remove what dead writers left over 24 hours ago.")] = False,
    iam: Annotated[
        Literal["driver", "executor"] | None,
        typer.Option("--iam", help="Check nothing; print the least IAM policy that a run needs on S3, of that role."),
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Check software, settings, places and leftovers. Alone, or where none is to be had, it works without Spark."""
    from sparkscore.run.doctor.diagnosis import diagnosis
    from sparkscore.spec.pipeline import load_pipeline

    loaded = load_pipeline(pipeline, sets_of(sets)) if pipeline is not None else None
    if iam is not None:
        _tell_policy(loaded, iam, as_json)
        return
    options: dict[str, Any] = {"on_cluster": on_cluster, "is_cleaned": clean, "say": say}
    if loaded is None and master is None and not on_cluster:
        _tell(diagnosis(None, None, **options), as_json)
        return
    started = False
    try:
        with answering_session(master, loaded.places if loaded is not None else ()) as spark:
            started = True
            found = diagnosis(loaded, spark, **options)
    except SparkscoreError as refusal:
        if started:
            raise
        from sparkscore.run.doctor.checks import fail

        found = [fail("spark", refusal.message, refusal.fix), *diagnosis(loaded, None, **options)]
    _tell(found, as_json)


def _tell_policy(pipeline: Pipeline | None, role: Literal["driver", "executor"], as_json: bool) -> None:
    from sparkscore.run.doctor.iam import places_elsewhere, policy

    if pipeline is None:
        raise error("SPS-SPEC-VALUE", "Expected a pipeline file with --iam, got none.", "Name the pipeline file.")
    found = policy(pipeline, role)
    for place in places_elsewhere(pipeline):
        say(f"not in the policy: {place}")
    if not found["Statement"]:
        say("no place that this pipeline tells is on S3: the policy is empty")
    emit(found, json.dumps(found, indent=2, ensure_ascii=False), as_json)


def _tell(found: list[Check], as_json: bool) -> None:
    counts = Counter(check.verdict for check in found)
    lines = []
    for check in found:
        lines.append(f"{check.verdict:<4}  {check.code:<14} {check.found}")
        if check.remedy:
            lines += [f"      {'':<14} -> {check.remedy}", f"      {'':<14}    {check.docs}"]
    lines.append(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} that would end a run")
    emit([check.to_json() for check in found], "\n".join(lines), as_json)
    if counts["fail"]:
        raise typer.Exit(int(Exit.ENVIRONMENT))
