"""The crumb of a task, from its first step to its end, and crumbs of dead workers as objects of the ledger.

Workers import this module: it imports pyspark and floors 0 and 1 only.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore.runtime import files
from sparkscore.runtime.crumbs import Crumb, dead_workers, death_class
from sparkscore.runtime.watchdog import watchdog

if TYPE_CHECKING:
    from pyspark import TaskContext
    from pyspark.sql import SparkSession

__all__ = ["UnitContext", "harvest", "harvest_everywhere", "task_crumb"]

_log = logging.getLogger(__name__)

_HARVESTERS = 16  # tasks that look for crumbs after a failed unit: more than most hosts, and none is told where to run


@dataclass(frozen=True)
class UnitContext:
    """The unit that a task works for, and where its receipt goes."""

    run_id: str
    unit_seq: int
    attempt: int
    ledger: str


@contextmanager
def task_crumb(unit: UnitContext, context: TaskContext) -> Iterator[Crumb | None]:
    """Harvest what dead workers left here, then keep a crumb of this task's own: None without a place for it."""
    harvest(unit.ledger)
    crumb = _crumb(unit, context)
    if crumb is None:
        yield None
        return
    watchdog().last_words = crumb.stuck
    try:
        yield crumb
    finally:
        watchdog().last_words = None
        crumb.close()


def harvest(ledger: str) -> int:
    """Write evidence of the dead workers whose crumbs are on this host, and give how many there were."""
    folder, taken = _local_folder(), 0
    try:
        for name, found in dead_workers(folder, ledger) if folder else ():
            record = {**found, "error_class": death_class(found)}
            files.write_bytes(f"{ledger}/evidence/{found['run_id']}/{name}.json", json.dumps(record).encode())
            taken += 1
    except Exception:  # boundary: evidence is worth no task; the crumb stays for the next one
        _log.warning("a dead worker's crumb could not be harvested", exc_info=True)
    return taken


def harvest_everywhere(spark: SparkSession, ledger: str) -> None:
    """Harvest on whatever executors take the tasks of a small job."""
    spark.range(0, _HARVESTERS, 1, _HARVESTERS).mapInArrow(_HarvestTask(ledger), "id bigint").collect()


class _HarvestTask:
    """`mapInArrow` function that gives no rows."""

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        harvest(self.ledger)
        yield from (batch.slice(0, 0) for batch in batches)


def _crumb(unit: UnitContext, context: TaskContext) -> Crumb | None:
    folder = _local_folder()
    about: dict[str, Any] = {
        "run_id": unit.run_id,
        "unit_seq": unit.unit_seq,
        "attempt": unit.attempt,
        "ledger": unit.ledger,
        "stage": context.stageId(),
        "partition": context.partitionId(),
        "task_attempt": context.attemptNumber(),
        "task_attempt_id": int(context.taskAttemptId()),
        "executor_id": os.environ.get("SPARK_EXECUTOR_ID"),  # of Kubernetes alone; Spark tells its workers nothing
        "pyspark_memory_mib": os.environ.get("PYSPARK_EXECUTOR_MEMORY_MB"),
    }
    try:
        return None if folder is None else Crumb(folder, about)
    except Exception:  # boundary: a full disk may cost the evidence, never the task
        _log.warning("no crumb could be kept in %s", folder, exc_info=True)
        return None


def _local_folder() -> Path | None:
    """The executor's own folder on the first of its local disks, as Spark names it to its workers."""
    folders = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")
    return Path(folders[0]) if folders[0] else None
