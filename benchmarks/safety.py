"""`python -m benchmarks.safety`: CPU that row isolation, crumbs and the guard add to scoring clean data, as a table."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.workload import LAYERS, write_model
from sparkscore.run.adapters import _bound, load
from sparkscore.runtime.crumbs import Crumb
from sparkscore.scoring.batching import micro_batches
from sparkscore.scoring.scorer import Scorer, open_scorer
from sparkscore.spec.scoring import FILE_COL, ROW_COL, ErrorPlan

# Name -> layers.
MODELS = {
    "T1": LAYERS,
    "2 layers of 64 on 30 numbers": (30, 64, 64, 1),
    "2 layers of 256 on 30 numbers": (30, 256, 256, 1),
    "3 layers of 1,024 on 512 numbers": (512, 1024, 1024, 1024, 1),
}
_ROWS = 65_536  # that come at once, as from the fused scan; the scorer cuts them by its own rules
_BLOCKS = 20


class PlainScorer(Scorer):
    """The scorer without isolation: the model is called, and what it gives is taken."""

    def _score_group(self, group: Any, scored: Any, faults: Any) -> None:
        for rows, feeds, call_rows in micro_batches(group, self._call_rows, self._about_rows):
            for start in range(0, len(rows), call_rows):
                called = slice(start, start + call_rows)
                part = {name: array[called] for name, array in feeds.items()}
                outputs = self.session.run(part, self._assembly.names)
                scored.add(rows[called], outputs, {name: part[name] for name in self._assembly.needs})


def main() -> None:
    """Measure each pair of arms on each model, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safety")
    parser.add_argument("--seconds", type=float, default=40.0, help="for each pair of arms on each model")
    seconds = parser.parse_args().seconds
    print("| model | CPU ms a batch | isolation | crumb | guard |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="sparkscore-bench-") as scratch:
        os.environ["SPARKSCORE_CACHE"] = f"{scratch}/cache"
        for name, layers in MODELS.items():
            arms = _arms(layers, Path(scratch))
            pairs = [("plain", "ours"), ("ours", "crumb"), ("ours", "guard")]
            found = [_compared(arms[one], arms[other], seconds) for one, other in pairs]
            arms["guard"].close()
            told = " | ".join(f"{of['mean']:+.1f} ± {of['interval']:.1f} %" for of in found)
            print(f"| {name} | {found[0]['cost_ms']:.2f} | {told} |", flush=True)


def isolation(scratch: Path, seconds: float) -> dict[str, float]:
    """Give what isolation adds to the scorer on T1, in percent of its CPU: `mean`, and its 95 % `interval`."""
    arms = _arms(LAYERS, scratch)
    found = _compared(arms["plain"], arms["ours"], seconds)
    return {name: round(value, 2) for name, value in found.items()}


def _arms(layers: tuple[int, ...], scratch: Path) -> dict[str, Generator[pa.RecordBatch]]:
    """Endless scorings of the same batch; each goes on where it stopped."""
    model, width, rows = str(write_model(scratch / f"{len(layers)}-{layers[1]}.onnx", layers)), layers[0], _ROWS
    names = [f"f{i}" for i in range(width)]
    rng = np.random.default_rng(3)
    values = {name: rng.normal(size=rows).astype(np.float32) for name in names}
    addresses = {FILE_COL: ["file:///lake/part-0.parquet"] * rows, ROW_COL: range(rows)}
    batch = pa.RecordBatch.from_pydict({**values, **addresses})
    _, plan = _bound(load(model), {"x": names}, None, batch.schema, {})
    plan = replace(plan, prove_batch=False)
    guarded = replace(plan, on_error=ErrorPlan(guard="always"))
    ours, crumb = open_scorer(plan), Crumb(scratch / "blockmgr-0", {"ledger": "none", "run_id": model})
    scorers = {
        "plain": PlainScorer(plan, _folder(ours), ours.session),
        "ours": ours,
        "crumb": open_scorer(plan, crumb=crumb),
        "guard": open_scorer(guarded),
    }
    return {name: (b for b in scorer.score(cycle([batch]))) for name, scorer in scorers.items()}


def _folder(scorer: Scorer) -> Path:
    from sparkscore.runtime.cache import local_folder

    return local_folder(scorer.plan.model, None)


def _compared(a: Iterator[Any], b: Iterator[Any], seconds: float) -> dict[str, float]:
    """CPU ms of a batch of the first arm, and percent that the second uses more: `mean` with its 95 % `interval`.

    Arms take turns with each batch, A-B-B-A, and the median batch of a block counts: so neither what else the machine
    does nor its clock falls on one arm. No third arm may run beside them: its arrays would take their place in the
    caches, and the arm that runs more rarely would miss its own (3 % on T1).
    """
    for arm in (a, b):
        next(arm)  # loads the model, in its child where it has one
    blocks = [_block(a, b, seconds / _BLOCKS) for _ in range(_BLOCKS)]
    more = [(statistics.median(theirs) / statistics.median(own) - 1) * 100 for own, theirs in blocks]
    return {
        "cost_ms": statistics.median(statistics.median(own) for own, _ in blocks) * 1000,
        "mean": statistics.mean(more),
        "interval": 1.96 * statistics.stdev(more) / len(more) ** 0.5,
    }


def _block(a: Iterator[Any], b: Iterator[Any], seconds: float) -> tuple[list[float], list[float]]:
    costs: dict[int, list[float]] = {0: [], 1: []}
    until = time.monotonic() + seconds
    files = _schedstats()
    while time.monotonic() < until or len(costs[0]) < 6:
        for which in (0, 1, 1, 0):
            theirs, own = _read(files), time.process_time()
            next((a, b)[which])
            own = time.process_time() - own
            costs[which].append(own + _read(files) - theirs)
    return costs[0], costs[1]


def _schedstats() -> list[Path]:
    """What the kernel says of the threads of this process's children; ticks of 10 ms are too long for a batch."""
    children = [pid for f in Path("/proc/self/task").glob("*/children") for pid in f.read_text().split()]
    return [file for pid in children for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]


def _read(files: list[Path]) -> float:
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


if __name__ == "__main__":
    main()
