"""The processor that a task runs on, by name: what was measured on one says nothing of another.

Workers import this module.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["machine_name"]

_PROCESSORS = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")


def machine_name(spark: SparkSession) -> str:
    """Ask an executor for the names of its processor and of its GPUs."""
    return str(spark.range(0, 1, 1, 1).mapInArrow(_named, "name string").collect()[0][0])


def _named(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"name": [_name()] * batch.num_rows})


def _name() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text(_PROCESSORS), re.MULTILINE)
    cards = sorted(_text(file / "information") for file in _GPUS.glob("*"))
    models = [m[1] for card in cards if (m := re.search(r"^Model:\s*(.+)$", card, re.MULTILINE))]
    return ", ".join([found[1] if found else platform.machine(), *models])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
