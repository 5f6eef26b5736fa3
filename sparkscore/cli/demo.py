"""`sparkscore demo`: real flights into a Delta table, then the main job over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparkscore.cli.options import AsJson, Master
from sparkscore.cli.printing import say
from sparkscore.cli.score import Order, carry_out
from sparkscore.cli.sessions import answering_session

__all__ = ["demo"]


def demo(
    *,
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where everything is written.")] = Path(".demo"),
    as_json: AsJson = False,
    master: Master = None,
) -> None:
    """Score 336,776 flights of 2013: which will be 15 minutes late? The same demo again does nothing, and says so."""
    from sparkscore import demo as flights
    from sparkscore.spec.pipeline import load_pipeline

    file, sets = flights.conf() / "pipelines" / "flights.yaml", {"dir": str(folder)}
    (table,) = load_pipeline(file, sets).source.location or ("",)
    with answering_session(master) as spark:
        say(f"flights of 2013 -> {table}")
        flights.download(folder / "raw")
        flights.prepare(spark, folder / "raw", Path(table))
        code = carry_out(Order(file, "flights-demo", sets, as_json=as_json, master=master))
    raise typer.Exit(code)
