"""The Spark session of a command: the one that is there, or one of the command's own, stopped at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from sparkscore.cli.printing import say
from sparkscore.run.stop import StopSignal, signals_as_exceptions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["answering_session", "command_session"]


@contextmanager
def command_session(master: str | None = None) -> Iterator[SparkSession]:
    """Give a session to a command; one that it made itself, also under `spark-submit`, is stopped.

    SIGTERM and SIGINT arrive as `StopSignal`.
    """
    from pyspark.sql import SparkSession

    from sparkscore.spark.sessions import elsewhere, local_session

    _quiet_py4j()
    with signals_as_exceptions():
        found = SparkSession.getActiveSession()
        spark = found or local_session(master)
        try:
            with signals_as_exceptions():
                yield spark
        finally:
            if found is None:
                elsewhere(spark.stop)


@contextmanager
def answering_session(master: str | None = None) -> Iterator[SparkSession]:
    """Give a session to a command that only answers a question: a signal ends it, with 128 + n."""
    try:
        with command_session(master) as spark:
            yield spark
    except StopSignal as stop:
        say(str(stop))
        raise typer.Exit(128 + stop.signum) from stop


def _quiet_py4j() -> None:
    """Keep py4j from printing the traceback of an interrupted or broken call: the command says what happened.

    It logs the one through the root logger and the other through its own; ``--debug`` shows both.
    """
    if not logging.getLogger("sparkscore").isEnabledFor(logging.DEBUG):
        logging.getLogger("py4j").setLevel(logging.CRITICAL + 1)
        logging.getLogger().addFilter(_not_an_interrupt)


def _not_an_interrupt(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("KeyboardInterrupt while sending command")
