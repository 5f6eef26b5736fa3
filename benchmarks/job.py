"""What an arm is asked to do, and the loop that the hand-written arms share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.jpegs import V1
from benchmarks.tabular import C1, S1, T1, T2, T3, Mlp, T3Binary
from benchmarks.text import N1, N1Arrival
from benchmarks.workload import Workload

WORKLOADS: dict[str, Workload] = {w.name: w for w in (T1(), Mlp(), T2(), T3(), T3Binary(), N1(), V1(), S1(), C1())}
_ARRIVAL: dict[str, Workload] = {"N1": N1Arrival()}


@dataclass(frozen=True)
class Job:
    """One run of an arm: the rows of a folder by a model, into nothing or into a folder of Parquet files."""

    workload: str
    folder: str
    model: str
    out: str | None = None
    arrival: bool = False  # texts in calls of 32 as they come

    @property
    def of(self) -> Workload:
        """The workload."""
        return (_ARRIVAL if self.arrival else WORKLOADS)[self.workload]

    @property
    def files(self) -> list[str]:
        """The files of the input."""
        return sorted(map(str, Path(self.folder).glob("*.parquet")))


class Scores:
    """The loop of the hand-written arms; travels to workers as the job alone."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, columns: Sequence[Any]) -> list[np.ndarray]:
        """Score a batch of columns, as Arrow, pandas or Daft has them; one array a result column."""
        return self.job.of.scores([as_arrow(column) for column in columns], self.job.model)

    def batch(self, batch: pa.RecordBatch | pa.Table) -> pa.RecordBatch:
        """Score a batch with an `id`; give id, results, and an error column that is always null."""
        found = self([batch.column(name) for name in self.job.of.columns])
        arrays = [as_arrow(batch.column("id")), *map(pa.array, found), pa.nulls(batch.num_rows, pa.string())]
        return pa.RecordBatch.from_arrays(arrays, names=["id", *self.job.of.results, "error"])

    def batches(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score batches, as `mapInArrow` wants it."""
        return map(self.batch, batches)


def as_arrow(column: Any) -> pa.Array:
    """Take a column as Arrow: by its memory where there is one."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(column, pa.Array):
        return column
    if hasattr(column, "to_arrow"):
        return as_arrow(column.to_arrow())
    values = column.to_numpy()
    if len(values) and isinstance(values[0], np.ndarray):
        return pa.FixedSizeListArray.from_arrays(np.concatenate(values), len(values[0]))
    return pa.array(values)
