"""How many requests to an object store a run makes, as far as its plan can tell; a disk takes none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparkscore.ledger.input_files import FileList
from sparkscore.ledger.plans import Unit
from sparkscore.runtime.files import is_s3
from sparkscore.runtime.slices import buffer_bytes

__all__ = ["GETS_PER_S", "request_warning", "requests_of"]

GETS_PER_S = 5500.0  # of a prefix that S3 has not split further (AWS, "Best practices design patterns")
_OPENING = 3  # a look at the file's size, and its footer in two reads
_GROUP_BYTES = 128 * 1024**2  # a row group as Spark writes it; each of its columns is a read of its own
_TASK_BYTES = 128 * 1024**2
_PER_TASK = 4  # a data file in two requests, its receipt, and a look at the ledger
_PER_UNIT = 40  # events, the commit, its proof
_ROWS_PER_S = 100_000.0  # that a run is taken to score before it is calibrated, as in `units`


def requests_of(unit: Unit, columns: int, sink: str) -> float:
    """Estimate the requests of a unit that reads so many columns of its files and writes into `sink`."""
    reads = _reads(unit.files, columns) if is_s3(unit.files[0].path) else 0.0
    tasks = max(1.0, unit.files.size_bytes / _TASK_BYTES)
    return reads + (tasks * _PER_TASK + _PER_UNIT if is_s3(sink) else 0.0)


def request_warning(units: Sequence[Unit], columns: int) -> list[str]:
    """Say so where requests to S3 take longer than scoring would: many small files, or columns of few bytes."""
    of_s3 = [unit for unit in units if is_s3(unit.files[0].path)]
    reads = sum(_reads(unit.files, columns) for unit in of_s3)
    needed_s = reads / GETS_PER_S
    if needed_s <= sum(unit.rows or 0 for unit in of_s3) / _ROWS_PER_S:
        return []
    files = sum(len(unit.files) for unit in of_s3)
    return [
        f"requests limit this run, not CPU: some {reads:,.0f} reads of {files:,} files take {needed_s / 3600:.2g} h at "
        f"the {GETS_PER_S:,.0f} a second of one prefix of S3; write larger files, or read fewer columns"
    ]


def _reads(files: FileList, columns: int) -> float:
    sizes = files.table["size_bytes"].to_numpy()
    ranges = np.maximum(columns * np.ceil(sizes / _GROUP_BYTES), sizes / buffer_bytes(files[0].path, columns))
    return float(ranges.sum() + _OPENING * len(sizes))
