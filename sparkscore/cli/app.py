"""The commands put together, and every failure of one turned into a text for people, an object for programs, a code."""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated

import typer

from sparkscore._version import __version__
from sparkscore.cli import check, demo, doctor, jars, ledger, model, quarantine, runs, score, spec
from sparkscore.errors import Exit, SparkscoreError
from sparkscore.run.stop import StopSignal

__all__ = ["app", "exit_code"]

log = logging.getLogger(__name__)

app = typer.Typer(
    name="sparkscore",
    help="Score every row of a dataset once with an ONNX model on Spark: nothing lost, nothing silent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("score")(score.score)
app.command("check")(check.check)
app.command("peek")(check.peek)
app.command("estimate")(check.estimate)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("jars")(jars.jars)
app.add_typer(runs.app, name="runs")
app.add_typer(ledger.app, name="ledger")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(model.app, name="model")
app.add_typer(spec.app, name="spec")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log to stderr, with the traceback of a failure.")] = False,
) -> None:
    if debug:
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger("sparkscore").setLevel(logging.DEBUG)
    if version:
        print(__version__)


def exit_code(args: list[str]) -> int:
    """Carry out a command line and give its exit code; tell on stderr what failed, and as JSON where that is asked."""
    if "--debug" in args:  # it may stand behind the command, too
        args = ["--debug", *(a for a in args if a != "--debug")]
    try:
        return int(app(args=args, prog_name="sparkscore", standalone_mode=False) or Exit.OK)
    except SparkscoreError as failure:
        return _told(failure.exit_code, failure.code, str(failure), "--json" in args)
    except StopSignal as stop:
        return _told(128 + stop.signum, None, str(stop), "--json" in args)
    except KeyboardInterrupt:
        return _told(130, None, "stopped by signal 2", "--json" in args)
    except Exception as cause:  # boundary: the end of the process; the traceback is shown under --debug
        if hasattr(cause, "show") and hasattr(cause, "exit_code"):  # a usage error of typer, whose tree moved with 0.2x
            cause.show()
            return _told(int(cause.exit_code), None, str(cause), "--json" in args, quiet=True)
        from sparkscore.spark.failures import from_spark

        named = from_spark(cause)
        return _told(named.exit_code, named.code, str(named), "--json" in args)


def _told(code: int, name: str | None, message: str, as_json: bool, *, quiet: bool = False) -> int:
    log.debug("exit %d", code, exc_info=True)
    if not quiet:
        print(message, file=sys.stderr)
    if as_json:
        print(json.dumps({"exit_code": code, "code": name, "message": message}))
    return code
