"""`sparkscore check`, `peek` and `estimate`: what a run would do and take, found out on a part of its rows."""

from __future__ import annotations

from typing import Annotated

import typer

from sparkscore.cli.options import AsJson, Master, PipelineFile, Sets, pairs_of, sets_of
from sparkscore.cli.printing import as_table, emit, say
from sparkscore.cli.sessions import answering_session

__all__ = ["check", "estimate", "peek"]


def check(pipeline: PipelineFile, *, sets: Sets = None, as_json: AsJson = False, master: Master = None) -> None:
    """Check schema, model, golden rows, batch dependence, keys and sink, and score 1,000 rows. Writes nothing."""
    from sparkscore.run.pipeline import Pipeline

    loaded = Pipeline.load(pipeline, sets_of(sets))
    with answering_session(master, loaded.spec.places) as spark:
        report = loaded.check(spark)
    emit(report.to_json(), str(report), as_json)


def peek(
    pipeline: PipelineFile,
    *,
    rows: Annotated[int, typer.Option("--rows", min=1, max=10_000, help="How many rows.")] = 10,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Score the first rows and show them. Writes nothing."""
    from sparkscore.run.pipeline import Pipeline
    from sparkscore.runtime import arrow

    loaded = Pipeline.load(pipeline, sets_of(sets))
    with answering_session(master, loaded.spec.places) as spark:
        scored = loaded.peek(spark, rows)
    found = arrow.rows(scored, "backslashreplace")
    shown = [{**row, "error": row["err"] and row["err"]["error_code"]} for row in found]
    emit(found, as_table(shown, [*(c for c in scored.schema.names if c != "err"), "error"]), as_json)


def estimate(
    pipeline: PipelineFile,
    *,
    prices: Annotated[
        list[str] | None,
        typer.Option("--price", metavar="NAME=USD", help="Of a core_hour, an hour or a request. Repeatable."),
    ] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Forget the earlier probe, and probe again.")
    ] = False,
    sets: Sets = None,
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Predict hours, cost, requests and bad rows of a run, from a probe of at most a minute. Leaves the sink alone."""
    from sparkscore.run.estimate import priced
    from sparkscore.run.pipeline import Pipeline

    loaded = Pipeline.load(pipeline, sets_of(sets))
    given = pairs_of(prices, "--price", "core_hour=0.05")
    priced(given)  # a mistake in them is told before the probe
    with answering_session(master, loaded.spec.places) as spark:
        found = loaded.estimate(spark, given or None, recalibrate=recalibrate, say=say)
    emit(found.to_json(), str(found), as_json)
