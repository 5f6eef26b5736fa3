"""All checks that apply to a pipeline, a ledger and a session, in the order in which a run would meet them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.store import open_store
from sparkscore.run.doctor import leftovers, places, software
from sparkscore.run.doctor.checks import Check, fail, ok
from sparkscore.spark.failures import from_spark
from sparkscore.spark.java import java_home, java_version
from sparkscore.spark.probe import FACTS_DDL, ProbeTask, facts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["diagnosis"]

_SETTINGS = (
    "spark.master",
    "spark.task.maxFailures",
    "spark.jars",
    "spark.executor.instances",
    "spark.redaction.regex",
    "spark.sql.execution.arrow.maxRecordsPerBatch",
    "spark.sql.execution.arrow.maxBytesPerBatch",
    "spark.sql.files.ignoreCorruptFiles",
    "spark.sql.files.ignoreMissingFiles",
    "spark.sql.sources.commitProtocolClass",
    "spark.hadoop.parquet.page.verify-checksum.enabled",
    "spark.hadoop.fs.s3a.committer.name",
    "spark.delta.logStore.s3a.impl",
    "spark.executor.resource.gpu.amount",
    "spark.task.resource.gpu.amount",
)


def diagnosis(
    pipeline: Any | None,
    spark: SparkSession | None,
    *,
    on_cluster: bool = False,
    is_cleaned: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Check]:
    """Make every check that can be made with what is given; a check that breaks is a failed one.

    Parameters
    ----------
    pipeline : sparkscore.spec.pipeline.Pipeline, optional
        Without it only the software is looked at.
    spark : SparkSession, optional
        Without it neither workers nor settings are.
    on_cluster : bool
        Ask many tasks, so that every executor answers; otherwise one.
    is_cleaned : bool
        Remove what is provably dead first; `say` tells what.
    """
    device = pipeline.model.device if pipeline is not None else "cpu"
    driver = facts(device)
    found: list[Check] = []
    workers: list[dict[str, Any]] = []
    if spark is not None:
        try:
            workers = _ask(spark, device, pipeline.ledger if pipeline is not None else None, on_cluster)
            kind = "Connect" if "connect" in type(spark).__module__ else "classic"
            found.append(ok("spark", f"a {kind} session of Spark {spark.version}; {len(workers)} workers answered"))
        except Exception as cause:  # boundary: workers that cannot answer are what is found
            named = from_spark(cause)
            found.append(fail("spark", named.message, named.fix))
    found += _software(device, driver, workers, spark)
    if spark is not None:
        settings = {name: spark.conf.get(name, None) for name in _SETTINGS}
        found += _settings(settings, device, pipeline, workers)
    else:
        settings = {}
    if pipeline is not None:
        found += _places(pipeline, settings, spark)
        found += _tried("debris", lambda: _leftovers(pipeline, is_cleaned, say))
    found += _tried("model-cache", lambda: [places.model_cache(driver, workers)])
    return found


def _software(
    device: str, driver: dict[str, Any], workers: list[dict[str, Any]], spark: SparkSession | None
) -> list[Check]:
    spark_version = spark.version if spark is not None else driver["versions"].get("pyspark", "")
    return [
        software.python(driver, workers),
        software.onnxruntime(driver, workers),
        software.provider(device, driver, workers),
        software.packages(driver, workers, spark_version),
        *_tried("java", lambda: [software.java(_java(spark))]),
        *(_tried("jars", lambda: [_jars(spark)]) if spark is not None else []),
    ]


def _settings(
    settings: dict[str, str | None], device: str, pipeline: Any | None, workers: list[dict[str, Any]]
) -> list[Check]:
    found = [
        software.attempts(settings),
        software.arrow_limits(settings),
        software.redaction(settings),
        software.corrupt_files(settings),
        software.gpu(device, settings),
    ]
    if pipeline is not None:
        found += [software.checksums(settings, pipeline.source.format), software.receipts(workers)]
    return found


def _places(pipeline: Any, settings: dict[str, str | None], spark: SparkSession | None) -> list[Check]:
    named = _named(pipeline)
    found = [places.source(place) for place in pipeline.source.location or () if "*" not in place]
    found += [places.written(name, named[name]) for name in ("sink", "quarantine") if name in named]
    found += [places.ledger(pipeline.ledger), places.clock(pipeline.ledger), places.disk(named)]
    found += [places.log_store(named, settings), places.committer(named, settings)]
    if spark is not None and "sink" in named and pipeline.sink.format == "delta":
        found += _tried("retention", lambda: [places.retention(spark, named["sink"])])
    return found


def _leftovers(pipeline: Any, is_cleaned: bool, say: Callable[[str], None]) -> list[Check]:
    store = open_store(pipeline.ledger)
    sources = {f"source[{i}]": place for i, place in enumerate(pipeline.source.location or ()) if "*" not in place}
    named = {**_named(pipeline), **sources}
    debris = leftovers.find_debris(named, store)
    if is_cleaned:
        for removed in leftovers.clean(debris):
            say(f"removed {removed}")
        debris = leftovers.find_debris(named, store)
    return [leftovers.temporary(debris), leftovers.debris(debris), leftovers.open_runs(store)]


def _named(pipeline: Any) -> dict[str, str]:
    found = {"sink": pipeline.sink.location, "quarantine": pipeline.quarantine.location, "ledger": pipeline.ledger}
    return {name: str(place) for name, place in found.items() if place}


def _ask(spark: SparkSession, device: str, ledger: str | None, on_cluster: bool) -> list[dict[str, Any]]:
    """Let workers tell what they are; each process once."""
    tasks = 4 * int(spark.conf.get("spark.executor.instances", None) or 2) if on_cluster else 1
    answers = spark.range(0, tasks, 1, tasks).mapInArrow(ProbeTask(device, ledger), FACTS_DDL).collect()
    found = [json.loads(row.facts) for row in answers]
    return list({(one["host"], one["pid"]): one for one in found}.values())


def _java(spark: SparkSession | None) -> str:
    return (
        java_version(java_home())
        if spark is None
        else _property(spark, "java.lang.System", "getProperty", "java.version")
    )


def _jars(spark: SparkSession) -> Check:
    names = [PurePosixPath(jar).name for jar in (spark.conf.get("spark.jars", None) or "").split(",") if jar]
    scala = _property(spark, "scala.util.Properties", "versionNumberString")
    hadoop = _property(spark, "org.apache.hadoop.util.VersionInfo", "getVersion")
    return software.jars(names, spark.version, scala, hadoop)


def _property(spark: SparkSession, *call: str) -> str:
    """Ask the JVM by Spark's own SQL function, which a Connect session has too."""
    arguments = ", ".join(f"'{text}'" for text in call)
    return str(spark.sql(f"SELECT java_method({arguments})").collect()[0][0])


def _tried(code: str, check: Callable[[], list[Check]]) -> list[Check]:
    try:
        return check()
    except SparkscoreError as refusal:
        return [fail(code, refusal.message, refusal.fix)]
    except Exception as cause:  # boundary: what breaks a check is what it found
        named = from_spark(cause)
        return [fail(code, named.message, named.fix)]
