"""No canary leaves a run by a door of ours: not by tables, logs, results, exceptions or the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.leaks import CANARIES, MARK

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(400)]

# What Spark itself writes into its event log whatever it is told (docs/privacy.md): the text of a task's failure, the
# literals of a plan's nodes, and the description of a SQL execution.
SPARKS_OWN = {(name, "event log") for name in ("cast", "e-mail in a plan", "card in a plan", "token in a description")}


@pytest.fixture(scope="module")
def leaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Give, by place, the canaries that were found there."""
    folder = tmp_path_factory.mktemp("leaks")
    command = [sys.executable, "-m", "tests.e2e.leaks", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=380, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    ours, _, sparks = done.stderr.partition(MARK)
    cli = (folder / "cli.txt").read_text()
    assert cli.count("exit 6") == 1, cli  # what was to fail on the cast did
    texts = {
        "ledger": everything(folder / "ledger"),
        "quarantine": everything(folder / "bad"),
        "sink": everything(folder / "out"),
        "event log": everything(folder / "events"),
        "driver and worker log": ours + done.stdout,
        "result file": (folder / "result.json").read_text(),
        "exception": (folder / "exception.txt").read_text(),
        "command line": cli,
        "export": everything(folder / "exported"),
        "Spark's default: event log": everything(folder / "default" / "events"),
        "Spark's default: log": sparks,
    }
    assert all(texts.values()), [place for place, text in texts.items() if not text]
    return {place: {name for name, value in CANARIES.items() if value in text} for place, text in texts.items()}


def test_no_canary_of_twenty_is_found_at_any_place_of_ours(leaks: dict[str, set[str]]) -> None:
    assert len(CANARIES) >= 20
    leaked = {(name, place) for place, names in leaks.items() if "default" not in place for name in names}
    assert leaked - SPARKS_OWN == set(), matrix(leaks)


def test_spark_by_its_own_settings_leaks_them(leaks: dict[str, set[str]]) -> None:
    """The canaries are live: without our settings the same run shows them."""
    live = leaks["Spark's default: event log"]
    assert {"pwd", "credential", "apikey", "url", "e-mail in a plan", "card in a plan", "cast"} <= live
    assert "cast" in leaks["Spark's default: log"]


def everything(folder: Path) -> str:
    """Read all the files below a folder, Parquet by its cells."""
    return "\n".join(_text(file) for file in sorted(folder.rglob("*")) if file.is_file())


def _text(file: Path) -> str:
    if file.suffix == ".parquet" and not file.name.startswith("."):
        return str(pq.ParquetFile(file).read().to_pylist())
    if file.parent.name == "plans" and file.suffix == ".json":
        plan = json.loads(file.read_text())
        del plan["spec"]  # the pipeline in its author's words, by which a run is resumed without the file
        return json.dumps(plan, ensure_ascii=False)
    return file.read_bytes().decode("latin-1")


def matrix(leaks: dict[str, set[str]]) -> str:
    """Lay out which canary was found where."""
    places = list(leaks)
    rows = [f"{name:24}" + "".join(f"{'LEAK' if name in leaks[p] else '.':^6}" for p in places) for name in CANARIES]
    return "\n".join([*(f"{i}: {place}" for i, place in enumerate(places)), *rows])
