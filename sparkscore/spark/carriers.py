"""The worker's side of every Spark path: a carrier takes Arrow batches from Spark and hands them back scored.

A carrier knows Spark and no model. This module imports pyspark and floors 0 to 2 only, since workers import it.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import files
from sparkscore.runtime.ahead import ahead
from sparkscore.runtime.arrow import numbers
from sparkscore.runtime.crumbs import Crumb
from sparkscore.runtime.slices import Scan, Slice, read_slices
from sparkscore.scoring.projection import projected
from sparkscore.scoring.scorer import Scorer, open_scorer
from sparkscore.spark.evidence import UnitContext, task_crumb
from sparkscore.spark.standstill import tells_standstill
from sparkscore.spark.workers import settle
from sparkscore.spec.scoring import ERR_COL, ModelFile, ModelRef, ScoringPlan

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TASK_COL",
    "ColumnTask",
    "FrameTask",
    "FusedTask",
    "RowsTask",
    "UnitContext",
    "UnitTask",
    "artifact_name",
]

_log = logging.getLogger(__name__)

TASK_COL = "_ss_task"  # bigint: the task attempt id, on the first row of each task only


class FrameTask:
    """`mapInArrow` function of `ss.score`: batches in, batches out, nothing written.

    Of each error only the fields of `shown` cross to the JVM: a null struct carries the buffers of all its fields.
    """

    def __init__(self, plan: ScoringPlan, shown: pa.StructType) -> None:
        self.plan = plan
        self.shown = shown

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score the batches of one partition."""
        return self.by(worker_scorer(self.plan), batches)

    def by(self, scorer: Scorer, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score batches by a scorer of the task's plan."""
        for batch in scorer.score(batches):
            position = batch.schema.get_field_index(ERR_COL)
            yield batch.set_column(position, ERR_COL, _only(batch.column(position), self.shown))


class RowsTask:
    """`mapInArrow` function over a frame of one row: hands a task rows that came along with it."""

    def __init__(self, rows: pa.Table, task: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]) -> None:
        self.rows = rows
        self.task = task

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Give what the task makes of the rows."""
        for _ in batches:
            yield from self.task(iter(self.rows.to_batches()))


class UnitTask:
    """`mapInArrow` function of a batch run: scores a partition of a unit and leaves a receipt for it.

    With `seconds`, as a probe has it, it takes no further batch after so long.
    """

    def __init__(self, plan: ScoringPlan, unit: UnitContext, seconds: float | None = None) -> None:
        self.plan = plan
        self.unit = unit
        self.seconds = seconds

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score the batches of one partition; the receipt is written after the last one."""
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None, "a unit's task runs in a Spark worker"
        task_id, started = int(context.taskAttemptId()), time.monotonic()
        with task_crumb(self.unit, context) as crumb:
            scorer = worker_scorer(self.plan, crumb)
            first, limit_s = True, self.plan.on_error.no_progress_s
            with tells_standstill(self.unit, context.partitionId(), crumb, limit_s) as moved:
                for batch in scorer.score(batches if self.seconds is None else _while_time(batches, self.seconds)):
                    yield _with_task_id(batch, task_id if first else None)
                    first = first and batch.num_rows == 0
                    moved()
        self._write_receipt(scorer, context.partitionId(), task_id, time.monotonic() - started)

    def _write_receipt(self, scorer: Scorer, partition: int, task_id: int, wall_s: float) -> None:
        receipt = {
            "run_id": self.unit.run_id,
            "unit_seq": self.unit.unit_seq,
            "attempt": self.unit.attempt,
            "partition": partition,
            "task_attempt_id": task_id,
            "pid": os.getpid(),
            "provider": scorer.session.provider,
            "versions": scorer.session.versions,
            "wall_s": round(wall_s, 3),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **asdict(scorer.counts),
        }
        folder = f"{self.unit.ledger}/receipts/{self.unit.run_id}/{self.unit.unit_seq}"
        try:
            files.write_bytes(f"{folder}/{self.unit.attempt}-{partition}-{task_id}.json", json.dumps(receipt).encode())
        except (SparkscoreError, OSError) as refusal:  # the rows do not depend on it; the run says what it cannot count
            _log.warning("the receipt of task %d could not be written: %s", task_id, refusal)


class FusedTask:
    """`mapInArrow` function of a fused batch run: a row is the number of a task, which reads its slices itself."""

    def __init__(self, scan: Scan, slices: Sequence[Sequence[Slice]], task: UnitTask) -> None:
        self.scan = scan
        self.slices = [pickle.dumps(list(own)) for own in slices]  # every worker gets all, and reads its own alone
        self.task = task

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Read and score the slices of one partition."""
        numbers = [number for batch in batches for number in batch.column(0).to_pylist()]
        slices: list[Slice] = [one for number in numbers for one in pickle.loads(self.slices[number])]
        read = read_slices(self.scan, slices)
        if not any(files.is_s3(one.path) for one in slices):
            yield from self.task(read)
            return
        with closing(ahead(read)) as early:  # the model runs while S3 answers
            yield from self.task(early)


class ColumnTask:
    """Column function of `ss.score_udf`: arrays of columns in, a struct of outputs and `err` out.

    `arrow` is the body of an Arrow UDF (Spark >= 4.1), `pandas` that of an iterator pandas UDF. pandas has no null
    beside NaN: its NaN is taken as null, so that a missing value meets the pipeline's policy and is never a number.
    """

    def __init__(self, plan: ScoringPlan, schema: pa.Schema, paths: Mapping[str, tuple[str, ...]]) -> None:
        self.plan = plan
        self.schema = schema
        self.paths = paths

    def arrow(self, columns: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
        """Score the arrays of one partition."""
        for batch in worker_scorer(self.plan).score(self._batch(arrays) for arrays in columns):
            yield batch.to_struct_array()

    def pandas(self, columns: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        """Score the series of one partition."""
        for batch in worker_scorer(self.plan).score(self._batch(self._to_arrow(series)) for series in columns):
            yield batch.to_pandas(integer_object_nulls=True)  # by way of floats, integers over 2^53 change

    def _batch(self, arrays: tuple[pa.Array, ...]) -> pa.RecordBatch:
        return projected(pa.RecordBatch.from_arrays(list(arrays), schema=self.schema), self.paths)

    def _to_arrow(self, series: tuple[pd.Series | pd.DataFrame, ...]) -> tuple[pa.Array, ...]:
        pairs = zip(series, self.schema, strict=True)
        return tuple(_from_pandas(values, field.type) for values, field in pairs)


def worker_scorer(plan: ScoringPlan, crumb: Crumb | None = None) -> Scorer:
    """Open the plan's scorer in this process; the session behind it is made once a process.

    The model gets as many threads as the task has cores (``spark.task.cpus``). A task that owns a GPU shows only that
    one to CUDA, before ONNX Runtime is asked for it.
    """
    from pyspark import TaskContext

    context, attempt = TaskContext.get(), 0
    if context is not None:
        attempt = context.attemptNumber()
        plan = replace(plan, session=replace(plan.session, threads=context.cpus()))
        gpus = context.resources().get("gpu")
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus.addresses)
    source = partial(_handed_out, plan.model) if plan.model.location.startswith("artifact:") else None
    scorer = open_scorer(plan, source, in_worker=context is not None, attempt=attempt, crumb=crumb)
    if context is not None:
        settle()
    return scorer


def artifact_name(model: ModelRef, index: int) -> str:
    """Name under which the driver hands out one file of a model; unique over models."""
    return f"sparkscore-{model.sha256[:16]}-{index}"


def _handed_out(model: ModelRef, file: ModelFile) -> str:
    from pyspark import SparkFiles

    return str(SparkFiles.get(artifact_name(model, model.files.index(file))))


def _from_pandas(values: pd.Series | pd.DataFrame, kind: pa.DataType) -> pa.Array:
    """Take a column as pandas has it; Spark hands a struct over as a frame, in which a null struct has null fields."""
    if values.ndim == 1:
        return pa.Array.from_pandas(values, type=kind)
    return pa.StructArray.from_arrays([_from_pandas(values[f.name], f.type) for f in kind], fields=list(kind))


def _while_time(batches: Iterator[pa.RecordBatch], seconds: float) -> Iterator[pa.RecordBatch]:
    until = time.monotonic() + seconds
    for batch in batches:
        yield batch
        if time.monotonic() >= until:
            return


@lru_cache(maxsize=4)
def _nulls(rows: int, kind: pa.StructType) -> pa.StructArray:
    return pa.nulls(rows, kind)  # of five strings, zeroed anew for each batch, costs as much as the scorer's own checks


def _only(errors: pa.StructArray, kind: pa.StructType) -> pa.StructArray:
    if errors.null_count == len(errors):
        return _nulls(len(errors), kind)
    return pa.StructArray.from_arrays([errors.field(f.name) for f in kind], fields=list(kind), mask=errors.is_null())


def _with_task_id(batch: pa.RecordBatch, task_id: int | None) -> pa.RecordBatch:
    ids = pa.nulls(batch.num_rows, pa.int64())
    if task_id is not None and batch.num_rows:
        ids = pa.concat_arrays([numbers(np.array([task_id], np.int64)), ids.slice(1)])
    names = [*batch.schema.names, TASK_COL]
    return pa.RecordBatch.from_arrays([*batch.columns, ids], names=names)
