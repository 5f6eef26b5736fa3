"""`python -m benchmarks.petabyte`: the driver's side of a plan over one petabyte of Parquet that exists by name alone."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkscore.ledger.input_files import FILES
from sparkscore.ledger.plans import Plan, read_plan, write_plan
from sparkscore.ledger.store import LocalStore
from sparkscore.run.requests import request_warning
from sparkscore.run.scan import TaskSizes
from sparkscore.run.units import pack

_BYTES = 10**15
_BYTES_PER_ROW = 120  # 30 floats
_COLUMNS = 31
_FOLDERS = 365
_CHUNK = 100_000
_MIB = 1024**2
_SIZES = TaskSizes(cores=1000, opening_bytes=4 * _MIB, most_bytes=128 * _MIB)  # Spark's settings


def main() -> None:
    """Plan for each number of files in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.petabyte")
    parser.add_argument("--files", type=float, nargs="+", default=[1e6, 1e7])
    print("| files | of | units | most files, tasks of a unit | pack, CPU-s | write | read | plan file | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for files in map(int, parser.parse_args().files):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            told = pool.apply(planned, (files,))
        print("| " + " | ".join(told.pop("row")) + " |", flush=True)
        print(json.dumps(told))


def planned(files: int) -> dict[str, Any]:
    """Pack, write and read the plan of a petabyte in so many files; memory is this process's, without the imports."""
    before = _peak_bytes()
    looks = _manifest(files)
    times: dict[str, float] = {}
    units = _timed(times, "pack", partial(pack, looks))
    del looks
    header = {"run_id": "petabyte", "ledger_version": 1}
    with tempfile.TemporaryDirectory(prefix="sparkscore-bench-") as folder:
        store = LocalStore(folder)
        plan = _timed(times, "write", lambda: write_plan(store, Plan(header, units)))
        assert plan is not None
        size = (Path(folder) / plan.header["files"]).stat().st_size
        again = _timed(times, "read", lambda: read_plan(store, "petabyte"))
    assert again is not None
    assert [unit.unit_id for unit in again.units] == [unit.unit_id for unit in units]
    peak = _peak_bytes() - before
    tasks = _timed(times, "tasks", lambda: max(_SIZES.tasks_of(unit) for unit in units))
    folders = _timed(times, "folders", plan.folders)
    row = [
        f"{files:,}",
        f"{_BYTES / files / 1e6:,.0f} MB",
        f"{len(units):,}",
        f"{max(len(unit.files) for unit in units):,}, {tasks:,}",
        *(f"{times[name]:.1f}" for name in ("pack", "write", "read")),
        f"{size / 1e6:,.0f} MB",
        f"{peak / 1e9:.2f} GB",
    ]
    warnings = _timed(times, "requests", lambda: request_warning(units, _COLUMNS))
    return {
        "row": row,
        "cpu_s": {k: round(v, 2) for k, v in times.items()},
        "folders": len(folders),
        "warns": warnings,
    }


def _manifest(files: int) -> pa.Table:
    """Name files as Spark does, in a folder a day, sorted, with sizes that differ by a tenth."""
    rng = np.random.default_rng(3)
    chunks = []
    for first in range(0, files, _CHUNK):
        number = np.arange(first, min(files, first + _CHUNK))
        day = pc.cast(pa.array(1 + number * _FOLDERS // files), pa.string())
        name = pc.utf8_lpad(pc.cast(pa.array(number), pa.string()), 8, "0")
        ends = "-9b1d4c1e-8f57-4d20-8a6e-0123456789ab.c000.snappy.parquet"
        path = pc.binary_join_element_wise(
            "s3a://lake/events/day=", pc.utf8_lpad(day, 3, "0"), "/part-", name, ends, ""
        )
        size = (_BYTES / files * rng.uniform(0.9, 1.1, len(number))).astype(np.int64)
        columns = [path, size, 1_790_000_000_000 + number, size // _BYTES_PER_ROW]
        chunks.append(pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=FILES))
    return pa.Table.from_batches(chunks)


def _timed(times: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    started = time.process_time()
    found = call()
    times[name] = time.process_time() - started
    return found


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
