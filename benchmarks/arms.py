"""The arms of each workload: who scores, and what the figures of an arm leave out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import engines, frames, loops
from benchmarks.job import Job

NOTHING = "no checks; the error column is always null; a bad row ends the job"
ALONE = "no checks; scores alone, no id, no error column"
PLANNED = "its plan, made once for an input, is in its figures on S1 and C1 alone; whole runs always plan"
RAW, FUSED, SCORE, PLAIN = "raw loop, 1 process", "sparkscore fused scan", "sparkscore ss.score", "plain mapInArrow"
LEAN = "sparkscore ss.score, weights lean"
RUN, PLAIN_RUN = "sparkscore whole run into Delta", "plain mapInArrow into Delta"


@dataclass(frozen=True)
class Arm:
    """A way to score.

    Attributes
    ----------
    score : callable
        Takes the Spark session, or None, and the job.
    lacks : str
        What it does not do that `ss.score` does.
    spark : bool
        Whether it needs a session.
    arrival : bool
        Whether texts are scored in calls of 32 as they come.
    ahead : callable, optional
        What it does once for a job, before it is measured.
    """

    score: Callable[[Any, Job], None]
    lacks: str = NOTHING
    spark: bool = True
    arrival: bool = False
    ahead: Callable[[Any, Job], Any] | None = None


ARMS = {
    RAW: Arm(loops.raw, ALONE, spark=False),
    "raw loop, a process a core": Arm(loops.raw_in_processes, ALONE, spark=False),
    FUSED: Arm(frames.fused, PLANNED, ahead=frames.plan_fused),
    SCORE: Arm(frames.sparkscore, ""),
    LEAN: Arm(frames.lean, ""),
    PLAIN: Arm(frames.plain),
    "arrow_udf": Arm(frames.arrow_udf),
    "pandas_udf, iterator": Arm(frames.pandas_udf),
    "predict_batch_udf": Arm(frames.predict_batch_udf),
    "MLflow spark_udf": Arm(frames.mlflow_spark_udf),
    "Ray Data, tuned": Arm(engines.ray_data, spark=False),
    "Ray Data, as in its guide": Arm(engines.ray_data_defaults, spark=False),
    "Daft, defaults": Arm(engines.daft, spark=False),
    "Daft, an instance a core": Arm(engines.daft_in_processes, spark=False),
    "plain mapInArrow, 32 as they come": Arm(frames.plain, arrival=True),
    "predict_batch_udf, 32 as they come": Arm(frames.predict_batch_udf, arrival=True),
    RUN: Arm(frames.whole_run, ""),
    PLAIN_RUN: Arm(frames.plain_into_delta, f"{NOTHING}; no resume, no proof"),
}
OURS = [name for name in ARMS if name.startswith("sparkscore")]

_ARRIVAL = [name for name, arm in ARMS.items() if arm.arrival]
_DELTA = [RUN, PLAIN_RUN]
_ALL = [name for name in ARMS if name not in (LEAN, *_ARRIVAL, *_DELTA)]
_UDFS = ["predict_batch_udf", "MLflow spark_udf"]
_ENGINES = ["Ray Data, tuned", "Daft, defaults"]
OF_WORKLOAD = {
    "T1": [*_ALL, *_DELTA],
    "T1 pyarrow": [RAW, FUSED, "Daft, defaults"],
    "T2": _ALL,
    "T3 array": _ALL,
    "T3 binary": _ALL,
    "N1": [*_ALL, *_ARRIVAL],
    "V1": _ALL,
    "S1": [RAW, FUSED, SCORE, PLAIN, *_ENGINES, *_DELTA],
    "C1": [RAW, "raw loop, a process a core", FUSED, SCORE, LEAN, PLAIN, *_UDFS, *_ENGINES],
}
