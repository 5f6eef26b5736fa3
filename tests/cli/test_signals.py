"""A run that is told to stop, in a process of its own: it closes its books, and the next start is immediate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparkscore.ledger.events import read_events
from sparkscore.ledger.store import LocalStore
from tests.run.conftest import delta_rows, write_rows

pytestmark = [pytest.mark.spark, pytest.mark.slow]

ROWS = 60_000
ROOT = Path(__file__).parents[2]


def _wait_for(fact: Callable[[], bool], process: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.05)


def _events(folder: Path) -> list[dict[str, Any]]:
    return read_events(LocalStore(folder / "ledger"), "r1")


def _scoring(folder: Path) -> bool:
    """The pilot is committed and the next unit is being written: its data files are on disk before its commit."""
    return any(e["event"] == "unit_committed" for e in _events(folder))


def _start(file: Path, launcher: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    told = [*launcher, str(file), "--run-id", "r1", "--result", str(file.parent / "result.json")]
    with (file.parent / "err.txt").open("wb") as err:
        return subprocess.Popen(told, env=environment, stdout=subprocess.DEVNULL, stderr=err)


@pytest.mark.parametrize(
    ("signum", "exit_code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.turn(2, 3))]
)
def test_a_signal_stops_the_run_and_the_next_start_is_immediate(
    spark, sparkscore, pipeline_file, tmp_path: Path, signum: int, exit_code: int
) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    file = pipeline_file(model={"uri": "linear.onnx", "batch_size": 1})  # a call a row: slow enough to be stopped
    process = _start(file, [sys.executable, "-m", "sparkscore", "score"])
    _wait_for(lambda: _scoring(tmp_path), process)
    process.send_signal(signum)
    assert process.wait(timeout=30) == exit_code

    closing = _events(tmp_path)[-1]
    assert (closing["event"], closing["exit_code"]) == ("run_stopped", exit_code)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["state"], result["exit_code"], result["code"]) == ("STOPPED", exit_code, None)
    err = (tmp_path / "err.txt").read_text()
    assert f"stopped by signal {int(signum)}\n" in err
    assert "Traceback" not in err

    started = time.monotonic()
    again = sparkscore("score", file, "--run-id", "r1", "--json")
    assert again.exit_code == 0
    assert "watching" not in again.err
    claimed = [e for e in _events(tmp_path) if e["event"] == "run_claimed"]
    assert len(claimed) == 2
    assert time.monotonic() - started < 60
    assert sorted(delta_rows(tmp_path / "out")["id"].to_pylist()) == list(range(ROWS))


@pytest.mark.turn(1, 3)
def test_under_spark_submit_a_sigterm_ends_the_jvm_first_and_the_books_are_closed_all_the_same(
    spark, pipeline_file, tmp_path: Path
) -> None:
    from sparkscore.spark import jars
    from sparkscore.spark.sessions import DELTA_CONF

    write_rows(tmp_path / "in", ROWS, 3)
    file = pipeline_file(model={"uri": "linear.onnx", "batch_size": 1})
    conf = {**DELTA_CONF, "spark.jars": ",".join(map(str, jars.ensure())), "spark.ui.enabled": "false"}
    options = [arg for key, value in conf.items() for arg in ("--conf", f"{key}={value}")]
    submit = [str(Path(sys.executable).parent / "spark-submit"), "--master", "local[2,4]", *options]
    process = _start(file, [*submit, str(ROOT / "jobs" / "batch_score.py")])
    _wait_for(lambda: _scoring(tmp_path), process)
    process.terminate()  # spark-submit is the JVM; Python is its child, and hears of it by calls that fail
    assert process.wait(timeout=30) == 143

    _wait_until(lambda: (tmp_path / "result.json").exists())
    assert _events(tmp_path)[-1]["event"] == "run_stopped"
    assert json.loads((tmp_path / "result.json").read_text())["exit_code"] == 143


def _wait_until(fact: Callable[[], bool], timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)
