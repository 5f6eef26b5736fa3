"""A real HDFS that tests talk to, on the loopback: a NameNode and a DataNode in one JVM, permissions on."""

from __future__ import annotations

import getpass
import importlib.util
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.spark import jars
from sparkscore.spark.java import java_home
from tests.servers import START_LIMIT_S, free_port

# For tests only, 56 MB: what else the cluster needs is among pyspark's own jars, of the same version of Hadoop.
PINNED_HDFS_TESTS = jars._jars("""
06772d24529e59939915979b3edba204d367750ef7dc5120411f35221dd4818c org.apache.hadoop:hadoop-client-minicluster:3.5.0
""")
_OF_PYSPARK = ("hadoop-client-api-3.5.0", "hadoop-client-runtime-3.5.0", "slf4j-api-*", "jcl-over-slf4j-*")

_SETTINGS = {
    "dfs.ls.limit": "5",  # names a page: a longer listing is several, as of 1,000 names on a real cluster
    "dfs.namenode.fs-limits.min-block-size": "1024",
    # A writer that closes a file before the DataNode has reported its block asks again after 400 ms, by default.
    "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "10",
}


@dataclass(frozen=True)
class HdfsServer:
    """A file system whose root may be written by the user of the tests alone."""

    root: str  # hdfs://127.0.0.1:<port>
    http_port: int

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {"SPARKSCORE_WEBHDFS_PORT": str(self.http_port), "HADOOP_USER_NAME": getpass.getuser()}


@contextmanager
def hdfs_server(tmp_path: Path) -> Iterator[HdfsServer]:
    """Run a cluster whose blocks are in `tmp_path`; skips the test where there is no Java, no jar or no pyspark."""
    try:
        java = java_home() / "bin" / "java"
        classpath = jars.fetch(PINNED_HDFS_TESTS, Path(__file__).parents[1] / ".jars" / "hdfs-tests")
        classpath += _of_pyspark()
    except SparkscoreError as cause:
        pytest.skip(f"no HDFS: {cause}")
    ready, port, http_port = tmp_path / "ready.json", free_port(), free_port()
    settings = {**_SETTINGS, "hdfs.minidfs.basedir": str(tmp_path / "dfs")}
    options = [item for name, value in settings.items() for item in ("-D", f"{name}={value}")]
    options += ["-format", "-nnport", str(port), "-httpport", str(http_port), "-writeDetails", str(ready)]
    command = [str(java), "-Xmx512m", "-cp", ":".join(map(str, classpath))]
    log = tmp_path / "hdfs.log"
    with log.open("wb") as out:
        # Compiled Hadoop brings the launcher of its own tests: no Java compiler is needed.
        command += ["org.apache.hadoop.test.MiniDFSClusterManager", *options]
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path)
    try:
        _await(ready, process, log)
        yield HdfsServer(f"hdfs://127.0.0.1:{port}", http_port)
    finally:
        process.kill()  # this server, and no other; it keeps nothing
        process.wait(10)


def _of_pyspark() -> list[Path]:
    pyspark = importlib.util.find_spec("pyspark")
    if pyspark is None or pyspark.origin is None:
        pytest.skip("no HDFS: pyspark is not installed")
    folder = Path(pyspark.origin).parent / "jars"
    found = [path for name in _OF_PYSPARK for path in sorted(folder.glob(f"{name}.jar"))]
    if len(found) < len(_OF_PYSPARK):
        pytest.skip(f"no HDFS: pyspark brings another Hadoop than 3.5.0 in {folder}")
    return found


def _await(ready: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not (ready.is_file() and ready.read_text().endswith("}")):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"HDFS did not start: {log.read_text()[-500:]}")
        time.sleep(0.05)
