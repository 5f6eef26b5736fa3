"""Real Spark clusters that tests run on, on the loopback: a standalone master with two workers, a Connect server.

Each worker has a cache and scratch folders of its own, as on a machine of its own. What is started here is stopped by
its process id.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sparkscore.spark import jars
from sparkscore.spark.java import java_home
from sparkscore.spark.sessions import DELTA_CONF

__all__ = [
    "ROOT",
    "bare_python",
    "cluster_environment",
    "connect_server",
    "delta_conf",
    "options",
    "spark_submit",
    "standalone",
]

ROOT = Path(__file__).parents[1]
START_LIMIT_S = 90
_QUICK = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
}


def delta_conf() -> dict[str, str]:
    """Settings of a session with Delta, for `spark-submit` and for a server; small tables are read by few tasks."""
    return {**DELTA_CONF, **_QUICK, "spark.jars": ",".join(map(str, jars.ensure()))}


def options(conf: Mapping[str, str]) -> list[str]:
    """Write settings as arguments of `spark-submit`."""
    return [argument for key, value in conf.items() for argument in ("--conf", f"{key}={value}")]


def cluster_environment(cache: Path, **more: str) -> dict[str, str]:
    """Environment of a process that stands for another machine: a model cache of its own."""
    own = {"JAVA_HOME": str(java_home()), "SPARK_LOCAL_IP": "127.0.0.1", "SPARKSCORE_CACHE": str(cache)}
    return {**os.environ, **own, "PYSPARK_PYTHON": sys.executable, **more}


def bare_python(folder: Path, packages: Sequence[str]) -> str:
    """Make a Python with the named packages and no others, as of a node that was set up for other work."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (there,) = folder.glob("lib/python*/site-packages")
    here = Path(np.__file__).parents[1]
    for name in packages:
        found = [path for path in here.iterdir() if re.fullmatch(rf"{name}(\.libs|-[\d.]+\.dist-info)?", path.name)]
        assert found, name
        for path in found:
            (there / path.name).symlink_to(path)
    return str(folder / "bin" / "python")


@contextmanager
def standalone(folder: Path, workers: int = 2) -> Iterator[str]:
    """Run a master and workers of one core each; give the master's URL."""
    daemon, started = "org.apache.spark.deploy", []
    try:
        at = ["--host", "127.0.0.1", "--webui-port", "0", "--port", "0"]
        environment = cluster_environment(folder / "master")
        log = _start(started, [_bin("spark-class"), f"{daemon}.master.Master", *at], environment, folder / "master.log")
        url = _line(log, r"Starting Spark master at (spark://\S+)", started[0])
        for number in range(workers):
            place = folder / f"worker-{number}"
            place.mkdir()
            environment = cluster_environment(place / "cache", SPARK_LOCAL_DIRS=str(place / "local"))
            size = [*at, "--cores", "1", "--memory", "1g", "--work-dir", str(place / "work")]
            command = [_bin("spark-class"), f"{daemon}.worker.Worker", *size, url]
            _line(_start(started, command, environment, place / "log"), r"(Successfully) registered", started[-1])
        yield url
    finally:
        _stop(started)


@contextmanager
def connect_server(folder: Path, conf: Mapping[str, str], master: str = "local[2,4]") -> Iterator[str]:
    """Run a Spark Connect server; give its ``sc://`` URL."""
    here = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": "0",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        **conf,
    }
    server = ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    scratch = str(folder / "local")
    environment = cluster_environment(folder / "cache", SPARK_LOCAL_DIRS=scratch, PYTHONPATH=str(ROOT))
    command = [spark_submit(), "--master", master, *options(here), *server]
    started: list[subprocess.Popen[bytes]] = []
    try:
        log = _start(started, command, environment, folder / "connect.log")
        yield "sc://127.0.0.1:" + _line(log, r"Spark Connect server started at: .*:(\d+)", started[0])
    finally:
        _stop(started)


def spark_submit() -> str:
    """Give the path of `spark-submit`."""
    return _bin("spark-submit")


def _bin(name: str) -> str:
    import pyspark

    return str(Path(pyspark.__file__).parent / "bin" / name)


def _start(started: list, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Path:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:  # spark-class and spark-submit become the JVM: the process id is the server's
        started.append(subprocess.Popen(command, env=dict(environment), stdout=out, stderr=out, cwd=log.parent))
    return log


def _line(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> str:
    """Wait until a server's log says what is looked for."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found:
            return found.group(1)
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{log.stem} did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _stop(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in reversed(started):
        process.terminate()
    for process in started:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
