"""The worker's side of the plain arms, as their best user would write it: in a module, so that a session is made once."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.workload import FEATURES, parquet_files
from sparkscore.scoring.verdicts import ERR_TYPE

MICRO_BATCH_ROWS = 8192
SESSION_OPTIONS = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}


@functools.cache
def session(model: str) -> Any:
    """Load the model with the same options as sparkscore does, once a process."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    for key, value in SESSION_OPTIONS.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


def matrix(batch: pa.RecordBatch) -> np.ndarray:
    """Pack the features: `to_tensor` is the fastest of six ways (performance.md §4)."""
    return batch.select(FEATURES).to_tensor(row_major=True).to_numpy()


class PlainTask:
    """A `mapInArrow` function without any care for rows; with `err` it returns an empty error column, as ours does."""

    def __init__(self, model: str, *, err: bool) -> None:
        self.model = model
        self.err = err

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        run = session(self.model).run
        for batch in batches:
            p = run(["p"], {"x": matrix(batch)})[0].reshape(-1)
            columns = {"id": batch.column("id"), "p": pa.array(p)}
            if self.err:
                columns["err"] = pa.nulls(batch.num_rows, ERR_TYPE)
            yield pa.RecordBatch.from_pydict(columns)


def make_score(model: str) -> Any:
    """Make the function that `predict_batch_udf` calls with an array of shape (n, 30)."""
    run = session(model).run
    return lambda inputs: run(["p"], {"x": np.ascontiguousarray(inputs)})[0].reshape(-1)


def raw_loop(model: str, folder: Path) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Score a folder of Parquet files in this process, on one thread: what the work itself costs.

    Yields
    ------
    ids : pyarrow.Array, p : ndarray of float32
        For each micro-batch.
    """
    run = session(model).run
    for path in parquet_files(folder):
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(MICRO_BATCH_ROWS, use_threads=False):
                yield batch.column("id"), run(["p"], {"x": matrix(batch)})[0].reshape(-1)
