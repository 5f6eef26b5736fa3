"""A unit that is only slow is not ended, one that stands still is; in a whole run: tests/contract/test_places.py."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.store import open_store
from sparkscore.spark.evidence import UnitContext, task_crumb
from sparkscore.spark.failures import mapped
from sparkscore.spark.standstill import ended_when_still, tells_standstill

pytestmark = [pytest.mark.spark, pytest.mark.slow]

LIMIT_S = 2.0


class Task:
    """Passes one row at a time, and waits before each; for ever before the row of a number."""

    def __init__(self, unit: UnitContext, wait_s: float, stops_before: int | None) -> None:
        self.unit, self.wait_s, self.stops_before = unit, wait_s, stops_before

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        with (
            task_crumb(self.unit, context) as crumb,
            tells_standstill(self.unit, context.partitionId(), crumb, LIMIT_S) as moved,
        ):
            for batch in batches:
                for i in range(batch.num_rows):
                    row = batch.slice(i, 1)
                    crumb.begin(1, (f"file:/rows#{row[0][0]}",) * 2, 1, 0)
                    time.sleep(600 if row[0][0].as_py() == self.stops_before else self.wait_s)
                    yield row
                    moved()


def scored(spark, store, wait_s: float, stops_before: int | None = None) -> int:
    unit = UnitContext("r1", 4, 2, store.root)
    evidence = partial(store.names, "evidence/r1")
    with ended_when_still(spark, unit, [f"file:/in/{i}" for i in range(5)], LIMIT_S, evidence), mapped(spark, run="r1"):
        rows = spark.range(0, 20, 1, 2).mapInArrow(Task(unit, wait_s, stops_before), "id bigint")
        return len(rows.collect())


def test_a_task_that_stands_still_ends_the_unit_and_is_named_with_its_last_row(spark, tmp_path: Path) -> None:
    store, since = open_store(str(tmp_path)), time.monotonic()
    with pytest.raises(SparkscoreError) as caught:
        scored(spark, store, 0.01, stops_before=13)
    failure = caught.value
    assert failure.code == "SPS-CLUSTER-STALLED"
    assert "partition 1 of unit 4 (0, 1, 2 and 2 more)" in failure.message
    assert "after row file:/rows#13" in failure.message
    found = json.loads(store.get(failure.context["evidence"]))
    assert (found["unit_seq"], found["attempt"], found["partition"], found["error_class"]) == (4, 2, 1, "P8")
    assert time.monotonic() - since < 60
    assert spark.range(3).count() == 3  # the session goes on


def test_a_slow_unit_is_left_alone(spark, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert scored(spark, store, LIMIT_S / 6) == 20  # ten rows a task: longer than the limit, each of them shorter
    assert store.names("evidence/r1") == []
