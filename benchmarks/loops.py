"""The floor: loops over Parquet files by hand, in one process and in as many as there are cores, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.job import Job, Scores

Part = tuple[str, list[int] | None]  # a file, and its row groups if not all


def raw(spark: Any, job: Job) -> None:
    """One process reads, packs, scores; it gives the scores alone."""
    _score(job, [(path, None) for path in job.files], 0)


def raw_in_processes(spark: Any, job: Job) -> None:
    """The same, in a process a core that each keeps its session."""
    cores = os.cpu_count() or 1
    parts: list[Part] = [(path, None) for path in job.files]
    if len(parts) < 4 * cores:
        parts = [(path, [group]) for path, _ in parts for group in range(_groups(path))]
    shares = [parts[i :: 4 * cores] for i in range(4 * cores)]
    list(_pool(cores).map(_score, [job] * len(shares), shares, range(len(shares))))


def _score(job: Job, parts: list[Part], share: int) -> None:
    """Score parts of files; with a place to write to, the rows' ids are read and written too."""
    scores = Scores(job)
    if job.out is None:
        for batch in _read(job, job.of.columns, parts):
            scores(batch.columns)
        return
    import pyarrow.parquet as pq

    found = [scores.batch(batch) for batch in _read(job, ["id", *job.of.columns], parts)]
    if found:
        Path(job.out).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_batches(found), f"{job.out}/{share}.parquet")


def _read(job: Job, columns: list[str], parts: list[Part]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for path, groups in parts:
        # Files are read in the order of their own columns; ours are picked in the order of the model's.
        for batch in pq.ParquetFile(path).iter_batches(job.of.read_rows, groups, columns, use_threads=False):
            yield batch.select(columns)


def _groups(path: str) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_row_groups)


@cache
def _pool(cores: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(cores, get_context("spawn"))
