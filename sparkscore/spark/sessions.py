"""Spark sessions: find the caller's, or make a local one for the command line, with Delta and this interpreter."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.cache import cache_root, to_hand_out
from sparkscore.runtime.files import is_s3, local_path, s3_endpoint, s3_region
from sparkscore.spark import jars, java
from sparkscore.spark.redaction import REDACTION_CONF, log_settings

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

    from sparkscore.spec.scoring import ModelRef

__all__ = ["DELTA_CONF", "active_session", "elsewhere", "hand_out", "interruptible", "is_over", "local_session"]

DELTA_CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
# For one machine: Spark's defaults plan for a cluster (200 shuffle partitions, 50 tasks for a table's log). Scoring
# shuffles nothing; the small queries over logs and ledgers do, of which a unit has about ten.
_ONE_MACHINE = {
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
}
_CONF = {
    "spark.ui.enabled": "false",
    "spark.log.level": "ERROR",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
}
# No other machine has to reach this driver.
_LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
_ADDRESS = re.compile(r"(?P<scheme>spark|sc)://(?P<hosts>[^/;]+)")
_PORTS = {"spark": "7077", "sc": "15002"}
_REACH_LIMIT_S = 5.0
_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
# A batch asks for throughput, not for short pauses; Spark's classes alone outgrow the room that Java first gives them.
_LOCAL_JAVA = "-XX:MetaspaceSize=256m -XX:+UseParallelGC"


def active_session() -> SparkSession:
    """Give the session that the caller already has.

    Raises
    ------
    ClusterError
        `SPS-ENV-PACKAGE` when there is none: sparkscore never makes a session behind a notebook's back.
    """
    from pyspark.sql import SparkSession

    found = SparkSession.getActiveSession()
    if found is None:
        raise error(
            "SPS-ENV-PACKAGE",
            "Expected an active Spark session. Got none.",
            "Pass `spark=`, or make one with SparkSession.builder; on the command line give --master.",
        )
    return found


def local_session(
    master: str | None = None, conf: dict[str, str] | None = None, places: Sequence[str] = ()
) -> SparkSession:
    """Make the command line's own session, or take the one that `spark-submit` already configured.

    Parameters
    ----------
    master : str, optional
        Spark master URL, or ``sc://host:port`` of a Spark Connect server. Default ``local[<cores>,4]``: four attempts
        a task, as on a cluster.
    conf : dict, optional
        Settings on top of the defaults. A Connect server has its own, and its own jars: there `conf` has no effect.
    places : sequence of str
        What the session will read and write. Where one is on S3, the session gets the jars and settings for it; its
        keys are in the environment, and in no setting.

    Raises
    ------
    ClusterError
        `SPS-ENV-SPARK` when nothing answers at the master's or server's address, or it gives no session;
        `SPS-ENV-PACKAGE` without what Spark needs on this machine.
    """
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # under spark-submit the JVM, its settings and its jars are given
        return _session({})
    _assert_reached(master or "")
    if master is not None and master.startswith("sc:"):
        return _session({"spark.remote": master})
    is_local = master is None or master.startswith("local")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if is_local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["JAVA_HOME"] = str(java.java_home())
    on_s3 = any(map(is_s3, places))
    settings = {
        **_CONF,
        **DELTA_CONF,
        **REDACTION_CONF,
        **({**_ONE_MACHINE, **_LOOPBACK} if is_local else {}),
        "spark.sql.warehouse.dir": str(cache_root() / "warehouse"),  # Spark's default litters the current folder
        "spark.jars": ",".join([*map(str, jars.ensure(s3=on_s3)), *_given_jars()]),
        **(_s3_conf() if on_s3 else {}),
        "spark.master": master or f"local[{os.cpu_count() or 2},4]",
        **(conf or {}),
    }
    settings[_JAVA_OPTIONS] = _java_options(settings.get(_JAVA_OPTIONS, ""))
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL + 1)  # pyspark's: it quotes rows' values
    return _session({key: value for key, value in settings.items() if value})


def _given_jars() -> list[str]:
    """Give the jars of the environment: JDBC drivers, and formats that Spark does not bring."""
    return [jar for jar in os.environ.get("SPARKSCORE_JARS", "").split(",") if jar]


def _s3_conf() -> dict[str, str]:
    """Point S3A where `runtime.files` and the ledger look, and make s3:// another name of s3a://."""
    endpoint, region = s3_endpoint(), s3_region()
    conf = {"fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem"}
    if endpoint is not None:
        is_plain = endpoint.startswith("http:")
        conf |= {
            "fs.s3a.endpoint": endpoint,
            "fs.s3a.path.style.access": "true",
            "fs.s3a.connection.ssl.enabled": str(not is_plain).lower(),
            "fs.s3a.endpoint.region": region or "us-east-1",  # what boto3 takes, too
        }
    elif region is not None:
        conf["fs.s3a.endpoint.region"] = region
    return {f"spark.hadoop.{name}": value for name, value in conf.items()}


def _java_options(given: str) -> str:
    """Put ours before the given ones of the JVM, unless a collector is chosen: a JVM refuses a second one."""
    names = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")
    chosen = any("GC" in options for options in (given, *(os.environ.get(name, "") for name in names)))
    if "log4j2.configurationFile" not in given:
        given = f"-Dlog4j2.configurationFile={log_settings().resolve().as_uri()} {given}"
    return (given if chosen else f"{_LOCAL_JAVA} {given}").strip()


def _session(settings: dict[str, str]) -> SparkSession:
    from pyspark.sql import SparkSession

    builder: SparkSession.Builder = SparkSession.builder.appName("sparkscore")
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except ImportError as cause:  # pyspark names each package that its Connect client misses
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected the packages of pyspark's Connect client. Got: {' '.join(str(cause).split())[:200]}.",
            'pip install "sparkscore[connect]"',
        ) from cause
    except Exception as cause:  # boundary: Spark refuses a session in many ways, by Python's, py4j's and gRPC's errors
        place, _, secret = (settings.get("spark.remote") or settings.get("spark.master", "spark-submit")).partition(";")
        text = " ".join(str(cause).replace(secret or "\n", " ").split())  # a Connect URL may end in a token
        raise _no_session(place, f"{type(cause).__name__}: {text[:400]}") from cause


def _assert_reached(master: str) -> None:
    """Refuse a cluster at whose address nothing listens: Spark itself would go on asking for minutes."""
    match = _ADDRESS.match(master)
    if match is None:
        return
    refusals = []
    for one in match["hosts"].split(","):
        host, _, port = one.rpartition(":") if re.search(r":\d+$", one) else (one, "", _PORTS[match["scheme"]])
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH_LIMIT_S).close()
            return  # of several masters one is enough
        except (OSError, OverflowError) as cause:  # OverflowError: no such port
            refusals.append(f"{one}: {cause}")
    raise _no_session(master.partition(";")[0], "; ".join(refusals))


def _no_session(place: str, got: str) -> SparkscoreError:
    return error(
        "SPS-ENV-SPARK",
        f"Expected a Spark session of {place}. Got {got}.",
        "Check the address, and that the master or the Connect server runs there with the Spark version of this "
        "machine's pyspark.",
    )


@contextmanager
def interruptible(spark: SparkSession) -> Iterator[None]:
    """Cancel the session's jobs when the block is interrupted; before Spark 4.0 an interrupted job runs to its end.

    Tags would be finer, but a classic session ties them to the thread whose connection is the interrupted one.
    """
    try:
        yield
    except KeyboardInterrupt:
        if hasattr(spark, "interruptAll"):
            elsewhere(spark.interruptAll)
        raise


def elsewhere(call: Callable[[], object], timeout_s: float = 20.0) -> Literal["done", "failed", "silent"]:
    """Call Spark on a thread of its own, and tell what came of it within `timeout_s`.

    A classic session speaks to the JVM over one connection a thread, which answers in order. After an interrupt, the
    main thread's connection still owes the answer of the interrupted call: whoever speaks on it waits for that first,
    and then takes it for his own. So stopping and cancelling go over another one.
    """
    answer: Future[object] = Future()
    threading.Thread(target=_answer, args=(answer, call), name="sparkscore-elsewhere", daemon=True).start()
    try:
        answer.result(timeout_s)
    except TimeoutError:
        return "silent"
    except Exception:  # boundary: that it fails is the answer
        return "failed"
    return "done"


def _answer(answer: Future[object], call: Callable[[], object]) -> None:
    try:
        answer.set_result(call())
    except Exception as cause:  # boundary: handed to the thread that waits
        answer.set_exception(cause)


def is_over(spark: SparkSession) -> bool:
    """Tell whether a session runs no job any more: it was stopped, or its JVM is gone."""
    return elsewhere(lambda: spark.range(1).collect()) == "failed"


def hand_out(spark: SparkSession | None, model: ModelRef, folder: Path) -> ModelRef:
    """Send a model's verified files to the workers, where they cannot read them themselves.

    These are files of a registry or on HDFS, and files on this machine's disk when the workers may be on others.

    Parameters
    ----------
    spark : SparkSession or None
        None: the active one.
    model : ModelRef
    folder : Path
        Where the files are on this machine.

    Returns
    -------
    ModelRef
        For the workers: its location says whether they were sent.
    """
    from sparkscore.spark.carriers import artifact_name

    sent = model.location.startswith("artifact:")
    if not sent and not (_of_this_disk(model) and _on_other_machines(spark)):
        return model
    for index, file in enumerate(model.files):
        named = to_hand_out(folder / file.path, artifact_name(model, index))
        (spark or active_session()).addArtifact(str(named), file=True)
    return model if sent else replace(model, location=f"artifact:{model.location}")


def _of_this_disk(model: ModelRef) -> bool:
    """Tell whether a file of the model has its place on a disk that is not known to be everyone's."""
    paths = (local_path(place) for place in (model.location, *(file.source for file in model.files)) if place)
    return any(path is not None and not str(path).startswith(("/dbfs/", "/Volumes/")) for path in paths)


def _on_other_machines(spark: SparkSession | None) -> bool:
    from pyspark.sql import SparkSession

    found: Any = spark or SparkSession.getActiveSession()
    if found is None:
        return False
    is_connect = "connect" in type(found).__module__  # its server's local[…] is not this machine
    return is_connect or re.fullmatch(r"local(\[.*\])?", found.conf.get("spark.master", "")) is None
