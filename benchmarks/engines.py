"""Ray Data and Daft, each once as its own guide to batch inference writes it, and once with settings for this machine."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.job import Job, Scores

CORES = os.cpu_count() or 1


def ray_data(spark: Any, job: Job) -> None:
    """A function with a session a process, over whole blocks of Arrow, which it cuts itself.

    Ray 2.60 lists tiny files one after another (83 ms each); its former reader, which it keeps, does not.
    """
    import ray

    _ray()
    ray.data.DataContext.get_current().use_datasource_v2 = job.workload != "S1"
    rows = ray.data.read_parquet(job.folder, columns=["id", *job.of.columns])
    _ray_sink(rows.map_batches(_ray_batch, fn_args=(job,), batch_format="pyarrow", batch_size=None), job)


def ray_data_defaults(spark: Any, job: Job) -> None:
    """A class that holds the model, in actors, over batches of numpy."""
    import ray

    _ray()
    rows = ray.data.read_parquet(job.folder)
    _ray_sink(rows.map_batches(RayScores, fn_constructor_args=(job,), batch_size="auto"), job)


def _ray_batch(table: pa.Table, job: Job) -> pa.Table:
    return pa.Table.from_batches([Scores(job).batch(table)])


class RayScores:
    """The class of the guide."""

    def __init__(self, job: Job) -> None:
        self.scores = Scores(job)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        columns = [batch[name] for name in self.scores.job.of.columns]
        found = self.scores([_from_numpy(column) for column in columns])
        n = len(batch["id"])
        return {"id": batch["id"], **dict(zip(self.scores.job.of.results, found, strict=True)), "error": [None] * n}


def _from_numpy(column: np.ndarray) -> pa.Array:
    if column.ndim == 2:  # Ray gives lists of one length as a matrix
        return pa.FixedSizeListArray.from_arrays(column.ravel(), column.shape[1])
    if column.dtype == object and len(column) and isinstance(column[0], np.ndarray):
        return pa.FixedSizeListArray.from_arrays(np.concatenate(column), len(column[0]))
    return pa.array(column)


def _ray_sink(rows: Any, job: Job) -> None:
    if job.out is None:
        for _ in rows.iter_internal_ref_bundles():  # as Ray's own benchmarks do: computed, and dropped
            pass
    else:
        rows.select_columns(["id", *job.of.results]).write_parquet(job.out)


@cache
def _ray() -> None:
    """Start Ray on this machine: no dashboard, no statistics sent, a store of 1 GiB."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=CORES, object_store_memory=1024**3, _node_ip_address="127.0.0.1", **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False


def daft(spark: Any, job: Job) -> None:
    """A batch method of a class, with Daft's own settings: it runs it in threads or processes as it finds best."""
    _daft(job, {}, {})


def daft_in_processes(spark: Any, job: Job) -> None:
    """The same with an instance a core, 8,192 rows a call."""
    _daft(job, {"max_concurrency": CORES}, {"batch_size": 8192})


def _daft(job: Job, of_class: dict[str, Any], of_method: dict[str, Any]) -> None:
    os.environ |= {"DAFT_ANALYTICS_ENABLED": "0", "SCARF_NO_ANALYTICS": "true", "DO_NOT_TRACK": "true"}
    import daft

    kinds = {"p": daft.DataType.float32(), "width": daft.DataType.int64(), "tokens": daft.DataType.int64()}
    names = list(job.of.results)
    single = len(names) == 1
    dtype = kinds["p"] if single else daft.DataType.struct({name: kinds[name] for name in names})

    class DaftScores:
        def __init__(self, job: Job) -> None:
            self.scores = Scores(job)

        @daft.method.batch(return_dtype=dtype, unnest=not single, **of_method)
        def score(self, *columns: daft.Series) -> pa.Array:
            found = [pa.array(array) for array in self.scores(columns)]
            return found[0] if single else pa.StructArray.from_arrays(found, names)

    rows = daft.read_parquet(f"{job.folder}/*.parquet")
    scored = daft.cls(DaftScores, **of_class)(job).score(*(rows[name] for name in job.of.columns))
    error = daft.lit(None).cast(daft.DataType.string()).alias("error")
    frame = rows.select("id", scored.alias("p") if single else scored, error)
    if job.out is not None:
        frame.exclude("error").write_parquet(job.out)
        return
    for _ in frame.to_arrow_iter():
        pass
