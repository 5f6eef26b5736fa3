"""One arm in a process of its own: a session, then one measured run for each job that it is sent."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from benchmarks.accounting import Tree, adopt_orphans, busy_s
from benchmarks.arms import ARMS, PLAIN, SCORE, Arm
from benchmarks.job import Job

# For the near ratio, both of a pair in one session, there and back.
_PAIRS = {"pair": [PLAIN, SCORE, SCORE, PLAIN], "pair back": [SCORE, PLAIN, PLAIN, SCORE]}


def main(name: str) -> None:
    """Answer each job on stdin with one JSON line: CPU-seconds, wall seconds, cores that others used, PSS."""
    adopt_orphans()
    tree = Tree(os.getpid())
    tree.start()  # what comes before the first run is part of a cold start
    arms = [ARMS[one] for one in _PAIRS.get(name, [name])]
    spark = None
    for line in sys.stdin:
        job = Job(**json.loads(line))
        try:
            spark = spark or (_spark() if arms[0].spark else None)
            runs = [_measured(arm, spark, job, tree) for arm in arms]
        except BaseException as cause:  # boundary: a peer that cannot run is a row of the table
            _answer({"error": f"{type(cause).__name__}: {(str(cause).strip() or 'no message').splitlines()[0][:160]}"})
            continue
        _answer({key: [run[key] for run in runs] for key in runs[0]})
    if spark is not None:
        spark.stop()


def _measured(arm: Arm, spark: Any, job: Job, tree: Tree) -> dict[str, float]:
    """CPU-seconds of the arm and of the process so far, wall seconds, cores that everything else used meanwhile, PSS."""
    if arm.ahead is not None:
        arm.ahead(spark, job)
    tree.start()
    before, busy, started = tree.cpu_s(), busy_s(), time.monotonic()
    arm.score(spark, job)
    wall_s = time.monotonic() - started
    cpu_s = tree.cpu_s() - before
    others = max(0.0, (busy_s() - busy - cpu_s) / wall_s)
    tree.stop()
    found = {"cpu_s": cpu_s, "all_cpu_s": tree.cpu_s(), "wall_s": wall_s, "others": others, **tree.pss_mb()}
    return {name: round(value, 3) for name, value in found.items()}


def _spark() -> Any:
    from sparkscore.spark.sessions import local_session

    return local_session("local[2]", {"spark.driver.memory": "1g"})


def _answer(answer: dict[str, Any]) -> None:
    print("@" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
