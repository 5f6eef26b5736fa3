"""Spark's own Python daemon, whose workers write their CPU clock to a file after each task."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pyspark import daemon

from benchmarks.accounting import REPORTS_ENV

_score = daemon.worker


def worker(*args: Any) -> int:
    code = _score(*args)
    (Path(os.environ[REPORTS_ENV]) / str(os.getpid())).write_text(str(time.process_time_ns()))
    return code


if __name__ == "__main__":
    daemon.worker = worker
    daemon.manager()
