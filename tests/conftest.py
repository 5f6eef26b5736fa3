"""What tests share: a lazy Spark session for the whole run, handed out clean to each, and servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.archive import ARCHIVE, JAVA_OPTIONS
from tests.hdfs import HdfsServer, hdfs_server
from tests.postgres import PASSWORD, Postgres, driver, postgres
from tests.servers import S3Server, s3_server

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_HERE = "local[2,4]"
# Of a run over a few rows Spark spends a third of its CPU on making and compiling the code of queries that run once.
# What a user has, compiled code, is in each process that tests start: the demo, commands, notebooks, clusters.
_QUERIES_THAT_RUN_ONCE = {"spark.sql.codegen.factoryMode": "NO_CODEGEN"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--place", default=_HERE, help="Spark master, or sc://… of a Connect server, for `spark`.")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if os.environ.get("SPARKSCORE_LANES"):
        return
    if item.get_closest_marker("lanes"):
        pytest.skip("of `make lanes`: it takes minutes")
    turn = item.get_closest_marker("turn")
    if turn and datetime.now(UTC).toordinal() % turn.args[1] != turn.args[0]:
        pytest.skip(f"of another day, and of `make lanes`: it runs on one day in {turn.args[1]}")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests' models out of the user's cache; processes that tests start inherit it."""
    os.environ["SPARKSCORE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _quick_java() -> None:
    """Start each JVM as is quickest for sessions of seconds."""
    archived = f" -XX:SharedArchiveFile={ARCHIVE}" if ARCHIVE.exists() else ""
    os.environ.setdefault("JDK_JAVA_OPTIONS", JAVA_OPTIONS + archived)


@pytest.fixture(scope="session")
def _jdbc_driver() -> None:
    """Give the Spark sessions of the tests, in processes that they start too, the driver of PostgreSQL."""
    jar = driver()
    if jar is not None:
        os.environ["SPARKSCORE_JARS"] = str(jar)


@pytest.fixture(scope="session")
def _session(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _own_cache: None,
    _quick_java: None,
    _jdbc_driver: None,
) -> Iterator[SparkSession]:
    from sparkscore.spark.sessions import local_session

    place = request.config.getoption("--place")
    conf = {"spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse"))}
    if place == _HERE:
        conf |= _QUERIES_THAT_RUN_ONCE
    if place.startswith("local-cluster"):
        conf["spark.executorEnv.SPARKSCORE_CACHE"] = str(tmp_path_factory.mktemp("executors"))  # as on another machine
    if place.startswith("spark:"):  # its workers have caches of their own, and know nothing of this folder
        conf |= {"spark.sql.shuffle.partitions": "2", "spark.databricks.delta.snapshotPartitions": "1"}
        conf |= {"spark.executorEnv.PYTHONPATH": str(Path(__file__).parents[1])}
    session = local_session(place, conf)
    yield session
    session.stop()


@pytest.fixture
def spark(_session: SparkSession) -> Iterator[SparkSession]:
    """The shared session; temporary views, the cache and the current database are reset after each test."""
    yield _session
    _session.catalog.clearCache()
    _session.catalog.setCurrentDatabase("default")
    for view in _session.sql("SHOW VIEWS").collect():
        if view.isTemporary:
            _session.catalog.dropTempView(view.viewName)


@pytest.fixture(scope="session")
def _s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with its address and keys in the environment."""
    for name, value in _s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return _s3_server


@pytest.fixture(scope="session")
def _hdfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HdfsServer]:
    with hdfs_server(tmp_path_factory.mktemp("hdfs")) as server:
        yield server


@pytest.fixture
def hdfs(_hdfs_server: HdfsServer, monkeypatch: pytest.MonkeyPatch) -> HdfsServer:
    """The cluster, with its HTTP port and its user in the environment."""
    for name, value in _hdfs_server.environment.items():
        monkeypatch.setenv(name, value)
    return _hdfs_server


@pytest.fixture(scope="session")
def _postgres(_jdbc_driver: None) -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture
def pg(_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """The server, empty, with its password where `source.credentials` of the tests refers to."""
    monkeypatch.setenv("TX_PASSWORD", PASSWORD)
    _postgres.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public;")
    return _postgres
