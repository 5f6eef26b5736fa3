"""The contract suite and whole runs on real clusters: local-cluster, a standalone master with two workers, Connect.

Each day has one of the three, and of the contract suite the cases in which places differ; `make lanes` runs all of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clusters import (
    ROOT,
    bare_python,
    cluster_environment,
    connect_server,
    delta_conf,
    options,
    spark_submit,
    standalone,
)
from tests.run.conftest import delta_rows, expected_score, linear_model, write_rows

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = 24_000
WITHIN_S = 240
# All of it, or what differs from place to place.
WHOLE = bool(os.environ.get("SPARKSCORE_LANES"))


@dataclass(frozen=True)
class Cluster:
    """A place to run: its master or server, and the folder in which its machines keep what is theirs."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def standalone_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("standalone")
    with standalone(folder) as url:
        yield Cluster(url, folder)


@pytest.fixture(scope="module")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("connect")
    with connect_server(folder, delta_conf()) as url:
        yield Cluster(url, folder)


@pytest.mark.turn(0, 3)
def test_the_contract_holds_on_a_local_cluster(tmp_path: Path) -> None:
    _contract("local-cluster[2,1,1024]", tmp_path)


@pytest.mark.turn(1, 3)
def test_the_contract_holds_on_a_standalone_cluster(standalone_cluster: Cluster, tmp_path: Path) -> None:
    # Its executors are those of a local cluster; what they do not share with the driver is another cache.
    _contract(standalone_cluster.url, tmp_path, "every_kind and (mapInArrow or batch) or only_the_driver")
    kept = standalone_cluster.folder.glob("worker-*/cache/models/*/encoders")  # of the one model with labels
    assert 1 <= len(list(kept)) <= 2  # a copy a node that had a task


@pytest.mark.turn(2, 3)
def test_the_contract_holds_on_a_connect_server(connect: Cluster, tmp_path: Path) -> None:
    _contract(connect.url, tmp_path)
    assert len(list(connect.folder.glob("cache/models/*/encoders"))) == 1


def _contract(url: str, folder: Path, cases: str = "test_") -> None:
    """Run the contract suite on a place: all of it, or the cases in which places differ, and of these `cases`."""
    which = [] if WHOLE else ["-m", "place", "-k", cases]
    command = [sys.executable, "-m", "pytest", "tests/contract", "-p", "no:cacheprovider", "--place", url, *which]
    command += ["--basetemp", str(folder / "contract"), "--durations=10"]
    environment = cluster_environment(folder / "driver", PYTHONPATH=str(ROOT))
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=890)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


@pytest.fixture
def pipeline_file(tmp_path: Path) -> Path:
    """A pipeline over four files, slow enough to be stopped, with one bad row."""
    linear_model(tmp_path / "linear.onnx")
    document = {
        "version": 1,
        "name": "t",
        "source": {"format": "parquet", "location": write_rows(tmp_path / "in", ROWS, 4, bad=lambda i: i == 7)},
        "model": {"uri": "linear.onnx", "batch_size": 1},
        "inputs": {"x": ["a", "b", "c"]},
        "outputs": {"score": "y[:, 0]"},
        "keys": ["id"],
        "sink": {"format": "delta", "location": str(tmp_path / "out")},
        "ledger": str(tmp_path / "ledger"),
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "p.yaml"


@pytest.mark.turn(1, 3)
def test_a_run_of_spark_submit_is_killed_and_resumed_on_a_cluster_whose_python_has_no_sparkscore(
    standalone_cluster: Cluster, pipeline_file: Path, tmp_path: Path
) -> None:
    package = shutil.make_archive(str(tmp_path / "sparkscore"), "zip", ROOT, "sparkscore")
    python = bare_python(tmp_path / "python", ("numpy", "pyarrow", "onnxruntime", "pandas", "pytz", "dateutil", "six"))
    submit = [spark_submit(), "--master", standalone_cluster.url, "--py-files", package, *options(delta_conf())]
    drivers = {"PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": sys.executable}
    command = [*submit, str(ROOT / "jobs" / "batch_score.py"), *_arguments(pipeline_file)]

    _stop_at(1, signal.SIGKILL, command, tmp_path, drivers)
    _finish(command, tmp_path, drivers)
    assert list(standalone_cluster.folder.glob("worker-*/cache/models/*/linear.onnx"))


@pytest.mark.turn(2, 3)
def test_a_run_of_a_connect_client_is_stopped_and_killed_and_resumed(
    connect: Cluster, pipeline_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "sparkscore", "score", "--remote", connect.url, *_arguments(pipeline_file)]
    assert _stop_at(1, signal.SIGTERM, command, tmp_path) == 143
    assert json.loads((tmp_path / "result.json").read_text())["state"] == "STOPPED"
    _stop_at(2, signal.SIGKILL, command, tmp_path)
    _finish(command, tmp_path)


@pytest.mark.turn(2, 3)
def test_a_connect_server_without_deltas_jars_is_named_before_anything_is_written(
    pipeline_file: Path, tmp_path: Path
) -> None:
    """Of a sink of files too, whose quarantine and ledger are Delta tables."""
    (tmp_path / "server").mkdir()
    with connect_server(tmp_path / "server", {"spark.ui.enabled": "false"}, "local[1]") as url:
        command = [sys.executable, "-m", "sparkscore", "score", "--remote", url, *_arguments(pipeline_file)]
        for more in ([], ["--set", "sink.format=parquet"]):
            assert _start([*command, *more], tmp_path).wait(WITHIN_S) == 4
            result = json.loads((tmp_path / "result.json").read_text())
            assert (result["code"], result["exit_code"]) == ("SPS-ENV-PACKAGE", 4)
            assert "Expected a Spark session with Delta." in result["message"]
            assert "or the Connect server that gives it" in result["message"]
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "ledger").glob("plans/*"))


@pytest.mark.lanes  # what local-cluster adds to the two above is its master's URL
def test_a_run_of_the_command_line_on_a_local_cluster_is_killed_and_resumed(
    pipeline_file: Path, tmp_path: Path
) -> None:
    master = ["--master", "local-cluster[2,1,1024]"]
    command = [sys.executable, "-m", "sparkscore", "score", *master, *_arguments(pipeline_file)]
    _stop_at(1, signal.SIGKILL, command, tmp_path)
    _finish(command, tmp_path)


def _arguments(file: Path) -> list[str]:
    return [str(file), "--run-id", "r1", "--result", str(file.parent / "result.json"), "--fail-on-quarantine"]


def _start(command: list[str], folder: Path, more: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    environment = {**cluster_environment(folder / "cache", PYTHONPATH=str(ROOT)), **(more or {})}
    with (folder / "err.txt").open("wb") as err:
        return subprocess.Popen(command, env=environment, stdout=err, stderr=err, cwd=ROOT, start_new_session=True)


def _stop_at(
    commits: int, signum: signal.Signals, command: list[str], folder: Path, more: Mapping[str, str] | None = None
) -> int:
    """Start the run, and end it once so many units are committed; SIGKILL ends all of the driver's processes."""
    process = _start(command, folder, more)
    try:
        _wait_for(lambda: len(list((folder / "out" / "_delta_log").glob("*.json"))) >= commits, process, folder)
        if signum == signal.SIGTERM:
            process.send_signal(signum)
            return process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _wait_for(fact: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not fact():
        assert process.poll() is None, (folder / "err.txt").read_text()[-3000:]
        assert time.monotonic() < deadline, (folder / "err.txt").read_text()[-3000:]
        time.sleep(0.05)


def _finish(command: list[str], folder: Path, more: Mapping[str, str] | None = None) -> None:
    """Start the run again; it ends well, with each row in the sink once, and code 3 for the one bad row."""
    process = _start(command, folder, more)
    try:
        code = process.wait(WITHIN_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert code == 3, (folder / "err.txt").read_text()[-3000:]
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert (result["state"], result["ok_rows"], result["quarantined_rows"]) == ("SUCCEEDED", ROWS - 1, 1)
    assert result["reused_units"] >= 1
    scores = sorted((r["id"], r["score"]) for r in delta_rows(folder / "out").select(["id", "score"]).to_pylist())
    assert scores == [(i, None if i == 7 else expected_score(i)) for i in range(ROWS)]
