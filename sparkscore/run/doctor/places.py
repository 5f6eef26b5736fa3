"""Checks of the places: whether each can be read, written and won once, how its clock goes, how full it is."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.store import open_store
from sparkscore.run.doctor.checks import Check, fail, ok, warn
from sparkscore.runtime import files
from sparkscore.runtime.cache import cache_root
from sparkscore.spark.delta_log import FILE_RETENTION, LEAST_FILE_RETENTION_H, retention_hours

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["clock", "committer", "disk", "ledger", "log_store", "model_cache", "retention", "source", "written"]

SCRATCH = "_doctor"
_SKEW_WARN_S, _SKEW_FAIL_S = 5, 300  # S3 refuses requests whose clock is 15 minutes off
_DISK_WARN_BYTES, _DISK_FAIL_BYTES = 1 << 30, 100 << 20


@contextmanager
def _scratch(place: str) -> Iterator[str]:
    """Name a file in a scratch folder; it is removed at the end, and so are folders that were not there before."""
    uri = f"{place.rstrip('/')}/{SCRATCH}/{uuid.uuid4().hex}.json"
    local = files.local_path(uri)
    made = [p for p in local.parents if not p.exists()] if local is not None else []
    try:
        yield uri
    finally:
        with suppress(SparkscoreError, OSError):  # a run needs no permission to delete; doctor does without, too
            files.delete(uri)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def ledger(root: str) -> Check:
    """Write an object once, read it, and see the second write refused."""
    data = b"{}"
    try:
        store = open_store(root)
        with _scratch(store.root) as uri:
            name = uri[len(store.root.rstrip("/")) + 1 :]
            won, again = store.put_if_absent(name, data), store.put_if_absent(name, data)
            same = store.get(name) == data and name.rpartition("/")[2] in store.names(SCRATCH)
    except SparkscoreError as refusal:
        return fail("ledger", refusal.message, refusal.fix)
    if not won or again or not same:
        found = f"{root}: a name was given {'twice' if again else 'never'}" if same else f"{root}: reads are stale"
        return fail("ledger", found, "Give `ledger:` a place with conditional writes: see docs/running.md.")
    return ok("ledger", f"{root}: written, read, and a second write of the name refused")


def written(code: str, place: str) -> Check:
    """Write and read a file in a scratch folder of a place."""
    try:
        with _scratch(place) as uri:
            files.write_bytes(uri, b"doctor")
            same = files.read_bytes(uri) == b"doctor"
    except (SparkscoreError, OSError) as refusal:
        text = refusal.message if isinstance(refusal, SparkscoreError) else f"{type(refusal).__name__}: {refusal}"
        return fail(
            code, f"{place} cannot be written: {text}", "Give this user the permission to read and write there."
        )
    if not same:
        return fail(code, f"{place} gave other bytes back than were written", "Look at the store.")
    return ok(code, f"{place}: written and read")


def source(place: str) -> Check:
    """Read the first bytes of a source."""
    try:
        found = files.list_files(place, recursive=False)
        if files.stat([place])[0] is None:
            return fail("source", f"{place} is not there", "Check source.location.")
        for file in found[:1]:
            next(files.read_chunks(file.uri, 16), b"")
    except (SparkscoreError, OSError) as refusal:
        text = refusal.message if isinstance(refusal, SparkscoreError) else str(refusal)
        return fail(
            "source", f"{place} cannot be read: {text}", "Give this user the permission to list and read there."
        )
    return ok("source", f"{place} can be read")


def clock(root: str) -> Check:
    """Compare this machine's clock with the one by which the store stamps an object."""
    try:
        with _scratch(root) as uri:
            before = time.time()
            files.write_bytes(uri, b"")
            stamped = files.stat([uri])[0]
            after = time.time()
    except (SparkscoreError, OSError):
        return warn("clock", f"{root} cannot be written, so its clock is not known", "See the check `ledger`.")
    if stamped is None or not stamped.mtime_ns:
        return ok("clock", f"{root} tells no times")
    return skew(before, stamped.mtime_ns / 1e9, after)


def skew(before_s: float, stamped_s: float, after_s: float) -> Check:
    """Judge a store's stamp of an object that was written between two moments here; stores may cut to whole seconds."""
    off_s = max(before_s - 1 - stamped_s, stamped_s - after_s, 0.0)
    remedy = "Set this machine's clock (NTP): `runs list` calls runs dead by it, S3 refuses requests."
    if off_s > _SKEW_FAIL_S:
        return fail("clock", f"{off_s:.0f} s apart from the store's", remedy)
    if off_s > _SKEW_WARN_S:
        return warn("clock", f"{off_s:.0f} s apart from the store's", remedy)
    return ok("clock", f"less than {_SKEW_WARN_S} s apart from the store's")


def disk(places: Mapping[str, str]) -> Check:
    """Look at the free space of every disk that a run writes to here."""
    here = {**places, "model cache": str(cache_root()), "Spark's scratch": tempfile.gettempdir()}
    free = {name: _free_bytes(path) for name, uri in here.items() if (path := files.local_path(uri)) is not None}
    name = min(free, key=lambda n: free[n])
    found = f"{free[name] / 2**30:.1f} GiB free for {name} ({here[name]}), the least"
    if free[name] < _DISK_FAIL_BYTES:
        return fail("disk", found, "Make room, or move it to another disk.")
    if free[name] < _DISK_WARN_BYTES:
        return warn("disk", found, "Make room, or move it to another disk.")
    return ok("disk", found)


def model_cache(driver: Mapping[str, Any], workers: list[dict[str, Any]]) -> Check:
    """Look whether every process can write the node's cache of models."""
    for one in (driver, *workers):
        if one["cache"]:
            remedy = "Set SPARKSCORE_CACHE to a folder that this user may write."
            return fail("model-cache", f"process {one['pid']} on {one['host']}: {one['cache']}", remedy)
    return ok("model-cache", str(cache_root()))


def log_store(places: Mapping[str, str], settings: Mapping[str, str | None]) -> Check:
    """Say whether several applications may write one table where the tables are."""
    on_s3 = [name for name, place in places.items() if files.is_s3(place)]
    store = settings.get("spark.delta.logStore.s3a.impl") or ""
    if on_s3 and "DynamoDB" not in store:
        remedy = (
            "Let one application at a time write a table, or set spark.delta.logStore.s3a.impl to S3DynamoDBLogStore."
        )
        return warn(
            "log-store", f"{', '.join(on_s3)} on S3: two applications that write one table lose commits", remedy
        )
    return ok("log-store", store or "one writing application a table at a time")


def committer(places: Mapping[str, str], settings: Mapping[str, str | None]) -> Check:
    """Name the committer that plain files would be written with; a Delta table does not use it."""
    name = settings.get("spark.hadoop.fs.s3a.committer.name") or "file"
    protocol = settings.get("spark.sql.sources.commitProtocolClass") or "Spark's default"
    if files.is_s3(places.get("sink", "")) and name == "file":
        remedy = (
            "For Parquet on S3: spark.hadoop.fs.s3a.committer.name magic, with spark-hadoop-cloud. Delta needs none."
        )
        return warn(
            "committer", "the file committer on S3, which copies and can lose files; Delta does not use it", remedy
        )
    return ok("committer", f"{name}, {protocol}; Delta uses none")


def retention(spark: SparkSession, sink: str) -> Check:
    """Look how long a sink keeps transactions and files."""
    from sparkscore.spark.delta_log import delta_path, newest_version

    if newest_version(spark, sink) is None:
        return ok("retention", f"no table at {sink} yet")
    detail = spark.sql(f"DESCRIBE DETAIL {delta_path(sink)}").select("properties").collect()
    checks = spark.conf.get("spark.databricks.delta.retentionDurationCheck.enabled", "true")
    return retained(sink, dict(detail[0].properties or {}), checks == "true")


def retained(sink: str, properties: Mapping[str, str], is_checked: bool) -> Check:
    """Judge a table's properties; `is_checked` says whether Delta refuses a VACUUM below the retention."""
    name = "delta.setTransactionRetentionDuration"
    if name in properties:
        remedy = f"ALTER TABLE delta.`{sink}` UNSET TBLPROPERTIES ('{name}')"
        return fail(
            "retention", f"{sink} forgets transactions ({properties[name]}), which exactly-once rests on", remedy
        )
    name = FILE_RETENTION
    if retention_hours(properties.get(name, "interval 1 week")) < LEAST_FILE_RETENTION_H:
        remedy = f"ALTER TABLE delta.`{sink}` SET TBLPROPERTIES ('{name}' = 'interval 1 week')"
        text = f"VACUUM of {sink} removes files after {properties[name]}: those of an open unit among them"
        return fail("retention", text, remedy)
    if not is_checked:
        text = "this session lets VACUUM go below the table's retention"
        return warn("retention", text, "spark.databricks.delta.retentionDurationCheck.enabled true")
    return ok("retention", f"{sink} keeps transactions for good, removed files for {properties.get(name, '1 week')}")


def _free_bytes(path: Path) -> int:
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free
