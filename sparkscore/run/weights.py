"""Which form a run's weights take in its workers' memory, chosen once from the session's settings: fast, or lean."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sparkscore.runtime.memory import memory_limit_bytes
from sparkscore.runtime.models import ENCODERS
from sparkscore.runtime.weights import MIN_MODEL_BYTES
from sparkscore.spec.scoring import ModelRef

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Form", "choose", "executor_of"]

_WORKER_BYTES = 80_000_000  # Python, numpy, pyarrow and ONNX Runtime, beside the weights (docs/decisions/0027)
_MOST = 0.5  # of the Python memory; the rest is for batches
_LOCAL = re.compile(r"local(?:\[(?P<cores>\*|\d+)(?:,.*)?\])?")
_CONTAINERS = ("yarn", "k8s:")  # where Python lives in an executor's overhead
_SETTINGS = (
    *("spark.master", "spark.task.cpus", "spark.driver.memory"),
    *(f"spark.executor.{name}" for name in ("cores", "memory", "memoryOverhead", "memoryOverheadFactor")),
    *("spark.executor.minMemoryOverhead", "spark.executor.pyspark.memory"),
)
_UNITS = {"b": 0, "k": 10, "m": 20, "": 20, "g": 30, "t": 40}


@dataclass(frozen=True)
class Form:
    """How workers hold the weights, and why; empty where the model is too small for a choice."""

    name: Literal["fast", "lean"]
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


def choose(spark: SparkSession, model: Any, ref: ModelRef) -> Form:
    """Choose the form of a new run; its plan keeps it, because their results differ in the last bits.

    Parameters
    ----------
    spark : SparkSession
    model : sparkscore.spec.pipeline.Model
    ref : ModelRef
        The pinned model.

    Notes
    -----
    `auto` takes `lean` where the workers of an executor, each with packed weights of its own, would take more than
    half of its Python memory (performance.md §8).
    """
    size_bytes = sum(file.size_bytes for file in ref.files if not file.path.startswith(f"{ENCODERS}/"))
    if model.weights != "auto":
        return Form(model.weights, "as the pipeline says")
    if size_bytes < MIN_MODEL_BYTES:
        return Form("fast")
    if model.device != "cpu":
        return Form("fast", f"device: {model.device}")
    settings = {name: str(spark.conf.get(name, "") or "") for name in _SETTINGS}
    workers, memory_bytes = executor_of(settings, is_here="connect" not in type(spark).__module__)
    if workers is None or memory_bytes is None:
        return Form("fast", "the settings do not tell an executor's cores and Python memory")
    need_bytes = workers * (size_bytes + _WORKER_BYTES)
    why = f"packed weights of {workers} workers: {need_bytes / 1e9:.2f} of {memory_bytes / 1e9:.2f} GB of Python memory"
    return Form("lean" if need_bytes > _MOST * memory_bytes else "fast", why)


def executor_of(settings: Mapping[str, str], *, is_here: bool) -> tuple[int | None, int | None]:
    """Tell how many tasks an executor runs at a time, and the bytes that its Python workers have together.

    Parameters
    ----------
    settings : mapping of str to str
        Of the session; '' for one that is not set.
    is_here : bool
        Whether a master ``local`` is this machine, and not that of a Connect server.

    Returns
    -------
    tuple of int or None
        None for what the settings do not tell: a standalone cluster gives a worker's cores and its host's memory.
    """
    master, cores = settings["spark.master"], settings["spark.executor.cores"]
    local = _LOCAL.fullmatch(master)
    if local is not None:
        cores = str(os.cpu_count()) if local["cores"] == "*" else local["cores"] or "1"
    elif not cores and master.startswith(_CONTAINERS):
        cores = "1"
    workers = max(1, int(cores) // int(settings["spark.task.cpus"] or "1")) if cores else None
    given = settings["spark.executor.pyspark.memory"] or settings["spark.executor.memoryOverhead"] * (local is None)
    if given:
        return workers, _bytes(given)
    if local is not None and is_here:
        return workers, memory_limit_bytes() - _bytes(settings["spark.driver.memory"] or "1g")
    if not master.startswith(_CONTAINERS):
        return workers, None
    factor = settings["spark.executor.memoryOverheadFactor"] or ("0.4" if master.startswith("k8s:") else "0.1")
    least = _bytes(settings["spark.executor.minMemoryOverhead"] or "384m")
    return workers, max(least, int(float(factor) * _bytes(settings["spark.executor.memory"] or "1g")))


def _bytes(text: str) -> int:
    """Read a size as Spark writes the memory of executors: MiB without a unit."""
    found = re.fullmatch(r"(\d+)\s*([bkmgt]?)b?", text.strip().lower())
    assert found is not None, "Spark has read it"
    return int(found[1]) << _UNITS[found[2]]
