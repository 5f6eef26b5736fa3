"""One arm in a process of its own: a session, a discarded first run, then one measured run for each line it is sent."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accounting import TreeCpu, busy_s
from benchmarks.arms import ARMS, plain, raw, sparkscore


def main(name: str, model: str) -> None:
    """Answer each line ``<folder>`` on stdin with one JSON line: CPU-seconds, wall seconds."""
    spark = None if ARMS.get(name) is raw else _spark()
    for line in sys.stdin:
        folder = Path(line.strip())
        try:
            runs = [_measured(arm, spark, folder, model) for arm in _arms(name)]
        except Exception as cause:  # boundary: a peer that cannot run is a row of the table
            _answer({"error": f"{type(cause).__name__}: {str(cause).splitlines()[0][:160]}"})
            continue
        cpu_s, wall_s, others = zip(*runs, strict=True)
        _answer({"cpu_s": cpu_s, "wall_s": wall_s, "others": max(others)})


def _arms(name: str) -> list[Callable[..., None]]:
    """The named arm; or, for the near ratio, both of a pair in one session, there and back."""
    pairs = {"pair": [plain, sparkscore, sparkscore, plain], "pair back": [sparkscore, plain, plain, sparkscore]}
    return pairs.get(name) or [ARMS[name]]


def _measured(arm: Callable[..., None], spark: Any, folder: Path, model: str) -> tuple[float, ...]:
    """CPU-seconds of the arm, its wall seconds, and the cores that everything else used meanwhile."""
    cpu = TreeCpu(os.getpid())
    before, busy, started = cpu.total_s(), busy_s(), time.monotonic()
    arm(spark, folder, model)
    wall_s = time.monotonic() - started
    cpu_s = cpu.total_s() - before
    cpu.stop()
    return cpu_s, wall_s, max(0.0, round((busy_s() - busy - cpu_s) / wall_s, 2))


def _spark() -> Any:
    from sparkscore.spark.sessions import local_session

    return local_session("local[2]", {"spark.driver.memory": "2g"})


def _answer(answer: dict[str, Any]) -> None:
    print("@" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
