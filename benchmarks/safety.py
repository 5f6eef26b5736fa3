"""`python -m benchmarks.safety`: CPU that row isolation, crumbs and the guard add to scoring clean data, as a table."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.workload import LAYERS, write_model
from sparkscore.run.adapters import _bound, load
from sparkscore.runtime.cache import local_folder
from sparkscore.runtime.crumbs import Crumb
from sparkscore.scoring.batching import micro_batches
from sparkscore.scoring.scorer import Scorer, open_scorer
from sparkscore.spec.scoring import FILE_COL, ROW_COL, ErrorPlan, ScoringPlan

# Name -> layers.
MODELS = {
    "T1": LAYERS,
    "2 layers of 64 on 30 numbers": (30, 64, 64, 1),
    "2 layers of 256 on 30 numbers": (30, 256, 256, 1),
    "3 layers of 1,024 on 512 numbers": (512, 1024, 1024, 1024, 1),
}
_ROWS = 65_536  # that come at once, as from the fused scan; the scorer cuts them by its own rules
_BLOCKS = 40


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
            plan, batch = _given(layers, Path(scratch))
            ours, crumb = open_scorer(plan), Crumb(Path(scratch) / "blockmgr-0", {"ledger": "none", "run_id": name})
            guarded = open_scorer(replace(plan, on_error=ErrorPlan(guard="always")))
            found = [
                _compared(_without_isolation(ours), ours, batch, seconds),
                _compared(ours, open_scorer(plan, crumb=crumb), batch, seconds),
                _compared(ours, guarded, batch, seconds),
            ]
            told = " | ".join(f"{of['mean']:+.1f} ± {of['interval']:.1f} %" for of in found)
            print(f"| {name} | {found[0]['cost_ms']:.2f} | {told} |", flush=True)


def isolation(scratch: Path, seconds: float) -> dict[str, float]:
    """Give what isolation adds to the scorer on T1, in percent of its CPU: `mean`, and its 95 % `interval`."""
    plan, batch = _given(LAYERS, scratch)
    ours = open_scorer(plan)
    found = _compared(_without_isolation(ours), ours, batch, seconds)
    return {name: round(value, 2) for name, value in found.items()}


def _given(layers: tuple[int, ...], scratch: Path) -> tuple[ScoringPlan, pa.RecordBatch]:
    model = str(write_model(scratch / f"{len(layers)}-{layers[1]}.onnx", layers))
    names = [f"f{i}" for i in range(layers[0])]
    rng = np.random.default_rng(3)
    values = {name: rng.normal(size=_ROWS).astype(np.float32) for name in names}
    addresses = {FILE_COL: ["file:///lake/part-0.parquet"] * _ROWS, ROW_COL: range(_ROWS)}
    batch = pa.RecordBatch.from_pydict({**values, **addresses})
    _, plan = _bound(load(model), {"x": names}, None, batch.schema, {})
    return replace(plan, prove_batch=False), batch


def _without_isolation(scorer: Scorer) -> Scorer:
    return PlainScorer(scorer.plan, local_folder(scorer.plan.model, None), scorer.session)


def _compared(a: Scorer, b: Scorer, batch: pa.RecordBatch, seconds: float) -> dict[str, float]:
    """CPU ms of a batch of the first scorer, and percent that the second uses more: `mean` with its 95 % `interval`.

    The two take turns with the same batch, A-B-B-A, and of each block the lower quartile counts: so neither what else
    the machine does, which only ever adds, nor its clock falls on one of them. Where their arrays lie makes a
    difference too (0.5 % on T1), so each block has new ones, and every second one begins with the other scorer. No
    third one may run beside them: its arrays would take their place in the caches, and who runs more rarely would miss
    its own (3 %).
    """
    blocks = []
    for i in range(_BLOCKS):
        costs = _block((b, a) if i % 2 else (a, b), batch, seconds / _BLOCKS)
        blocks.append(costs[::-1] if i % 2 else costs)
    more = [(theirs / own - 1) * 100 for own, theirs in blocks]
    return {
        "cost_ms": statistics.median(own for own, _ in blocks) * 1000,
        "mean": statistics.mean(more),
        "interval": 1.96 * statistics.stdev(more) / len(more) ** 0.5,
    }


def _block(scorers: tuple[Scorer, Scorer], batch: pa.RecordBatch, seconds: float) -> list[float]:
    """CPU seconds of a batch of each of two scorers."""
    costs: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        arms = [stack.enter_context(closing(scorer.score(cycle([batch])))) for scorer in scorers]
        for arm in arms:
            next(arm)  # loads the model, in its child where it has one
        files, until = _schedstats(), time.monotonic() + seconds
        while time.monotonic() < until or len(costs[0]) < 6:
            for which in (0, 1, 1, 0):
                theirs, own = _read(files), time.process_time()
                next(arms[which])
                own = time.process_time() - own
                costs[which].append(own + _read(files) - theirs)
    return [statistics.quantiles(of, n=4)[0] for of in costs]


def _schedstats() -> list[Path]:
    """What the kernel says of the threads of this process's children; ticks of 10 ms are too long for a batch."""
    children = [pid for f in Path("/proc/self/task").glob("*/children") for pid in f.read_text().split()]
    return [file for pid in children for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]


def _read(files: list[Path]) -> float:
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


if __name__ == "__main__":
    main()
