"""Ratios near 1: `ss.score` to plain `mapInArrow`, and the scorer to one without row isolation."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.job import WORKLOADS, Job, Scores
from benchmarks.quick import scoring_plan
from benchmarks.runs import Options, Process, circumstances
from benchmarks.safety import isolation

_BATCH = 10_000  # rows of Spark's batches
_PAIRS, _BATCHES = 40, 40
_ISOLATION_S = 240.0


def pairs(sessions: int, options: Options, scratch: Path) -> dict[str, Any]:
    """CPU of ss.score over that of plain mapInArrow on T1: in each of several sessions, and what its workers add; and isolation's part.

    A session runs both there and back, A-B-B-A, twice; every second session begins with the other one. What a JVM's
    compilers make of the same code differs by some 15 % from one session to the next, so only sessions count,
    and a ratio near 1 is told by `in_process`.
    """
    of = WORKLOADS["T1"]
    rows = max(1, round(of.sizes[0] * options.scale))
    model = str(of.write_model(scratch / "pairs" / "model"))
    job = Job("T1", str(of.write(scratch / "pairs" / "rows", rows)), model)
    ratios = []
    for i in range(sessions):
        process = Process("pair" if i % 2 == 0 else "pair back", options.max_others)
        try:
            process.ask(job)  # the compilers are at work in the first runs
            rounds = [process.run(job)["cpu_s"] for _ in range(2)]
        finally:
            process.close()
        outer, inner = (sum(a + d for a, _, _, d in rounds), sum(b + c for _, b, c, _ in rounds))
        ratios.append(round(inner / outer if i % 2 == 0 else outer / inner, 4))
        print("session", i, rounds, ratios[-1], flush=True)
    more, isolated = in_process(job), isolation(scratch / "pairs", _ISOLATION_S)
    shutil.rmtree(scratch / "pairs")
    return {**circumstances(), "rows": rows, "ratios": ratios, "more_ns": more, "isolation": isolated}


def in_process(job: Job) -> dict[str, float]:
    """CPU ns a row that the worker's part of ss.score takes more than that of plain mapInArrow, on the same batches.

    Both take turns in this process, A-B-B-A, 40 batches each: `mean` over 40 such pairs, with its 95 % `interval`.
    """
    import pyarrow.parquet as pq

    from sparkscore.scoring.scorer import open_scorer
    from sparkscore.scoring.verdicts import ERR_TYPE
    from sparkscore.spark.carriers import FrameTask

    found = pq.ParquetFile(job.files[0]).iter_batches(_BATCH, columns=["id", *job.of.columns])
    batches = [batch.select(["id", *job.of.columns]) for batch in found if batch.num_rows == _BATCH][:_BATCHES]
    plan = scoring_plan(job, batches[0].schema)
    shown = pa.struct([ERR_TYPE.field(name) for name in ("error_code", "error_message")])
    arms = Scores(job).batches(cycle(batches)), FrameTask(plan, shown).by(open_scorer(plan), cycle(batches))
    more = []
    for _ in range(_PAIRS + 1):
        plain, ours, again, back = (_ns_a_row(arms[i]) for i in (0, 1, 1, 0))
        more.append((ours + again - plain - back) / 2)
    more = more[1:]  # the first one loads the model
    half = 1.96 * statistics.stdev(more) / len(more) ** 0.5
    return {"mean": round(statistics.mean(more), 1), "interval": round(half, 1)}


def _ns_a_row(batches: Iterator[Any]) -> float:
    started = time.process_time()
    for _ in range(_BATCHES):
        next(batches)
    return (time.process_time() - started) / _BATCHES / _BATCH * 1e9
