"""Checks of the software: the driver's and the workers' Python, ONNX Runtime, Java, jars, and Spark's settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparkscore.run.doctor.checks import Check, fail, ok, warn

__all__ = [
    "arrow_limits",
    "attempts",
    "checksums",
    "corrupt_files",
    "gpu",
    "jars",
    "java",
    "onnxruntime",
    "packages",
    "provider",
    "python",
    "receipts",
    "redaction",
]

Facts = Mapping[str, Any]
Settings = Mapping[str, str | None]

_OLDEST_JAVA = 17
_CUDA = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_SECRETS = ("db.pwd", "my.credential", "openai.api_key", "openai.apikey", "kafka.sasl.jaas.config", "connection.string")
_REDACTION = "(?i)secret|password|token|access[.]?key|pwd|credential|api[_.-]?key|sasl|jaas|connection"
_MOST_ROWS = 100_000


def python(driver: Facts, workers: Sequence[Facts]) -> Check:
    """Compare the driver's Python with the workers': minor versions pickle functions in different ways."""
    minor = _minor(driver["python"])
    others = {w["python"] for w in workers if _minor(w["python"]) != minor}
    if others:
        found = f"driver {driver['python']}, workers {', '.join(sorted(others))}"
        return fail(
            "python", found, "Set PYSPARK_PYTHON on the driver to the workers' Python, or spark.pyspark.python."
        )
    asked = f", {len(workers)} workers agree" if workers else "; no worker was asked"
    return ok("python", f"{driver['python']}{asked}")


def onnxruntime(driver: Facts, workers: Sequence[Facts]) -> Check:
    """Want exactly one wheel of ONNX Runtime in each process: two overwrite each other's files."""
    for who, one in _named(driver, workers):
        wheels = one["distributions"]
        if len(wheels) > 1:
            return fail("onnxruntime", f"{who} has {_pairs(wheels)}", f"pip uninstall {' '.join(wheels)}; install one.")
        if not one["available"]:
            return fail("onnxruntime", f"{who}: {one['active']}", 'pip install "sparkscore[cpu]"')
    return ok("onnxruntime", _pairs(driver["distributions"]) or "built from source")


def provider(device: str, driver: Facts, workers: Sequence[Facts]) -> Check:
    """Look whether the device is really active: where the model will run, on the driver only if no worker was asked."""
    where = _named(None, workers) if workers else _named(driver, ())
    for who, one in where:
        wanted = _CUDA.get(device)
        if one["active"].startswith("none:") or (wanted and one["active"] != wanted):
            remedy = "Install onnxruntime-gpu with its CUDA and cuDNN there, or set model.device: cpu."
            return fail("provider", f"{who}: device {device} gives {one['active']}", remedy)
        if device == "auto" and one["active"] not in _CUDA.values():
            return warn(
                "provider", f"{who}: device auto falls back to {one['active']}", "Set model.device: cpu, or cuda."
            )
    return ok("provider", f"device {device} gives {next(iter(where))[1]['active']}")


def packages(driver: Facts, workers: Sequence[Facts], spark_version: str) -> Check:
    """Hold NumPy, pandas and pyarrow against the pairs that are known not to work together."""
    for who, one in _named(driver, workers):
        versions = one["versions"]
        numbers = {name: _numbers(text) for name, text in versions.items()}
        missing = [name for name in ("numpy", "pyarrow", "pandas") if name not in versions]
        if missing:
            return fail("packages", f"{who} has no {missing[0]}, which mapInArrow needs", f"pip install {missing[0]}")
        wrong = _wrong_pair(numbers, _numbers(spark_version))
        if wrong:
            return fail(
                "packages", f"{who} has {_pairs(versions)}: {wrong}", "pip install -c conf/constraints/spark-4.2.txt"
            )
    return ok("packages", _pairs(driver["versions"]))


def java(found: str) -> Check:
    """Judge a Java by its version's text."""
    numbers = _numbers(found.removeprefix("1."))
    if not numbers or numbers[0] < _OLDEST_JAVA:
        fix = f"Install Java {_OLDEST_JAVA} or newer and set JAVA_HOME, or: pip install 'sparkscore[java]'"
        return fail("java", found or "no Java", fix)
    return ok("java", f"Java {found}")


def jars(names: Iterable[str], spark: str, scala: str, hadoop: str) -> Check:
    """Hold the names of the jars against the Spark, Scala and Hadoop that run."""
    line, fix = ".".join(spark.split(".")[:2]), "Take the list of `sparkscore jars` (for S3: --s3) for this Spark."
    for name in names:
        artifact = re.fullmatch(r"(?P<name>.+?)(_(?P<spark>\d\.\d))?_(?P<scala>2\.\d+)-.*\.jar", name)
        if artifact and artifact["scala"] != ".".join(scala.split(".")[:2]):
            return fail("jars", f"{name} is for Scala {artifact['scala']}; this Spark has {scala}", fix)
        if artifact and artifact["spark"] not in (None, line):
            return fail("jars", f"{name} is for Spark {artifact['spark']}; this is {spark}", fix)
        aws = re.fullmatch(r"hadoop-aws-(.+)\.jar", name)
        if aws and aws[1] != hadoop:
            return fail("jars", f"{name} beside Hadoop {hadoop}", fix)
        if name.startswith("aws-java-sdk-bundle-1.") and _numbers(hadoop) >= (3, 4):
            return fail("jars", f"{name}, the SDK of version 1, beside Hadoop {hadoop}", fix)
    return ok("jars", f"Spark {spark}, Scala {scala}, Hadoop {hadoop}")


def attempts(settings: Settings) -> Check:
    """Look how often Spark tries a task: with one attempt there is no guarded retry."""
    master, most = settings.get("spark.master") or "", settings.get("spark.task.maxFailures")
    local = re.fullmatch(r"local(?:\[([^,\]]*)(?:,\s*(\d+))?\])?", master)
    tries = int((local[2] or 1) if local else (most or 4))
    if tries < 2:
        fix = "Use local[N,4], or spark.task.maxFailures 4, or on_error.guard: always."
        return warn("attempts", f"{master}: one attempt a task, so a row that kills its worker ends the run", fix)
    return ok("attempts", f"{master or 'master unknown'}: {tries} attempts a task")


def arrow_limits(settings: Settings) -> Check:
    """Look whether Spark bounds its Arrow batches."""
    rows = int(settings.get("spark.sql.execution.arrow.maxRecordsPerBatch") or 10_000)
    if not 0 < rows <= _MOST_ROWS:
        fix = "spark.sql.execution.arrow.maxRecordsPerBatch 10000"
        return warn("arrow-limits", f"{rows} rows a batch: wide rows may not fit in a worker", fix)
    limit = settings.get("spark.sql.execution.arrow.maxBytesPerBatch") or "no limit of bytes"
    return ok("arrow-limits", f"{rows} rows, {limit} a batch")


def redaction(settings: Settings) -> Check:
    """Try settings with secrets in them against the pattern that hides them from logs and Spark's pages."""
    pattern = settings.get("spark.redaction.regex") or "(?i)secret|password|token|access[.]?key"
    shown = [name for name in _SECRETS if not re.search(pattern, name)]
    if shown:
        return warn("redaction", f"shows settings such as {shown[0]}", f"spark.redaction.regex {_REDACTION}")
    return ok("redaction", "hides passwords, keys, credentials and connections")


def corrupt_files(settings: Settings) -> Check:
    """Look whether the session skips what it cannot read."""
    names = ("spark.sql.files.ignoreCorruptFiles", "spark.sql.files.ignoreMissingFiles")
    found = [name for name in names if (settings.get(name) or "false").lower() == "true"]
    if found:
        text = f"{' and '.join(found)}: other readers lose rows silently; sparkscore overrules it, or refuses the table"
        return warn("corrupt-files", text, f"{found[0]} false")
    return ok("corrupt-files", "damaged and missing files are errors")


def checksums(settings: Settings, source_format: str) -> Check:
    """Look whether pages are verified where the reader takes no option: a Delta table through Delta's own reader."""
    name = "parquet.page.verify-checksum.enabled"
    is_on = (settings.get(f"spark.hadoop.{name}") or settings.get(name) or "false").lower() == "true"
    if source_format == "delta" and not is_on:
        text = "a Delta source with deletion vectors or column mapping is read without page checksums"
        return warn("checksums", text, f"spark.hadoop.{name} true")
    return ok("checksums", "pages are verified")


def gpu(device: str, settings: Settings) -> Check:
    """Look whether Spark knows of the GPUs that tasks will share."""
    amount = settings.get("spark.task.resource.gpu.amount") or settings.get("spark.executor.resource.gpu.amount")
    if device in _CUDA and not amount:
        fix = "spark.executor.resource.gpu.amount 1, spark.task.resource.gpu.amount, and a discoveryScript"
        return warn("gpu", f"device {device}, and Spark gives no task a GPU of its own", fix)
    return ok("gpu", f"{amount} a task" if amount else f"device {device} asks for none")


def receipts(workers: Sequence[Facts]) -> Check:
    """Look whether workers reach the ledger."""
    for who, one in _named(None, workers):
        if one["receipt"]:
            text = f"{who} cannot write there, so model calls and dropped rows stay unknown: {one['receipt']}"
            return warn("receipts", text, "Give workers the permission to write below <ledger>/receipts.")
    return ok("receipts", f"{len(workers)} workers can write theirs")


def _wrong_pair(numbers: Mapping[str, tuple[int, ...]], spark: tuple[int, ...]) -> str:
    if numbers["pyarrow"] >= (26,) and numbers["numpy"] < (2,):
        return "pyarrow 26 needs NumPy 2"
    if numbers["pyarrow"] < (15,):
        return "pyarrow 15 is the oldest that is supported"
    if spark and numbers["pandas"] >= (3,) and spark < (4, 3):
        return "pandas 3 needs Spark 4.3"
    if spark and numbers["numpy"] >= (2,) and spark < (4,):
        return "Spark 3.5 needs NumPy 1"
    return ""


def _named(driver: Facts | None, workers: Sequence[Facts]) -> list[tuple[str, Facts]]:
    first = [("the driver", driver)] if driver is not None else []
    return [*first, *((f"the worker {w['pid']} on {w['host']}", w) for w in workers)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _pairs(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
