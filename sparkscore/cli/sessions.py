"""The Spark session of a command: the one that is there, or one of the command's own, stopped at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from sparkscore.cli.printing import say
from sparkscore.demo import conf
from sparkscore.run.stop import StopSignal, signals_as_exceptions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["answering_session", "command_session"]


@contextmanager
def command_session(master: str | None = None, places: Sequence[str] = ()) -> Iterator[SparkSession]:
    """Give a session to a command that reads and writes `places`; one that it made itself is stopped.

    Under `spark-submit` it is made from what Spark was given, and stopped too. SIGTERM and SIGINT arrive as
    `StopSignal`.
    """
    from pyspark.sql import SparkSession

    from sparkscore.spark.sessions import elsewhere, local_session

    with signals_as_exceptions():
        found = SparkSession.getActiveSession()
        spark = found or local_session(master, _quiet(), places)
        try:
            with signals_as_exceptions():
                yield spark
        finally:
            if found is None:
                elsewhere(spark.stop)


@contextmanager
def answering_session(master: str | None = None, places: Sequence[str] = ()) -> Iterator[SparkSession]:
    """Give a session to a command that only answers a question: a signal ends it, with 128 + n."""
    try:
        with command_session(master, places) as spark:
            yield spark
    except StopSignal as stop:
        say(str(stop))
        raise typer.Exit(128 + stop.signum) from stop


def _quiet() -> dict[str, str]:
    """Keep Spark, pyspark and py4j from printing tracebacks: the command says what happened. ``--debug`` shows them.

    py4j logs a broken call through its own logger, and an interrupted one through the root.
    """
    if logging.getLogger("sparkscore").isEnabledFor(logging.DEBUG):
        return {}
    for name in ("py4j", "SQLQueryContextLogger"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.getLogger().addFilter(_not_an_interrupt)
    file = (conf() / "log4j2.properties").resolve().as_uri()
    return {"spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={file}", "spark.log.level": ""}


def _not_an_interrupt(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("KeyboardInterrupt while sending command")
