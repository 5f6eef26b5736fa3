"""Memory, load and runs of workers that hold the same weights in each form; as a script, one of these workers."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accounting import pss_mb
from sparkscore.runtime.cache import local_folder
from sparkscore.runtime.models import pin
from sparkscore.runtime.session import Session, open_session
from sparkscore.spec.scoring import ModelRef, SessionPlan

_WIDTH = 1024
_RUNS = 15
_LAYERS = 40  # of 1024 x 1024 float32, 4.2 MB each
_WORKERS = (1, 2, 4)


def memory(scratch: Path) -> dict[str, Any]:
    """Measure what `section` shows; ``SPARKSCORE_CACHE`` says where the models are kept meanwhile."""
    from benchmarks.runs import circumstances  # not into the workers, which are this module too

    model = write_model(scratch / "memory" / "model.onnx", _LAYERS)
    ref = pin(str(model)).ref
    forms = {  # of a file with nothing beside it, as of one of less than 16 MB, each process takes a copy
        "embedded": (str(model.parent), "fast"),
        "fast": (str(local_folder(ref)), "fast"),
        "lean": (str(local_folder(ref)), "lean"),
    }
    rows = []
    for form, (folder, weights) in forms.items():
        for n in _WORKERS:
            before, after, told = _measured(n, (folder, ref.main, weights))
            load_s, ms_64, ms_1 = (statistics.median(values) for values in zip(*told, strict=True))
            row = {"before_mb": before, "after_mb": after, "load_s": load_s, "ms_64": ms_64, "ms_1": ms_1}
            rows.append({"weights": form, "workers": n, **{key: round(value, 3) for key, value in row.items()}})
            print("memory", rows[-1], flush=True)
    return {**circumstances(), "model_mb": ref.files[0].size_bytes / 1e6, "rows": rows}


def most_mb(model_mb: float, workers: int) -> float:
    """Give the target of release 1: what so many workers may take together (performance.md §15)."""
    return 1.3 * model_mb + workers * 80


def section(found: dict[str, Any]) -> str:
    """Write the table of what was measured."""
    mb = found["model_mb"]
    heads = ["weights", "workers", "PSS MB of all before the load", "after runs", "release 1", "goal"]
    lines = [
        f"## Memory of workers that hold the same model of {mb:,.0f} MB",
        "",
        f"| {' | '.join([*heads, 'load s', '64 rows ms', '1 row ms'])} |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for row in found["rows"]:
        n = row["workers"]
        held = [row["before_mb"], row["after_mb"], most_mb(mb, n), 1.2 * mb + n * 60]
        times = [row["load_s"], row["ms_64"], row["ms_1"]]
        cells = [row["weights"], str(n), *(f"{value:,.0f}" for value in held), *(f"{value:.3g}" for value in times)]
        lines.append(f"| {' | '.join(cells)} |")
    said = f"`python -m benchmarks --workloads memory` on {found['date']}; {found['machine']}; outside Spark."
    return "\n".join([*lines, "", said])


def write_model(path: Path, layers: int) -> Path:
    """Write y = tanh(... tanh(x @ w0) @ w1 ...), x and y of shape (n, 1024) in float32, with weights of unit gain."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, held = np.random.default_rng(0), [], []
    for i in range(layers):
        weights = rng.standard_normal((_WIDTH, _WIDTH), np.float32) / np.float32(_WIDTH**0.5)
        held.append(numpy_helper.from_array(weights, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"y{i - 1}" if i else "x", f"w{i}"], [f"h{i}"]))
        nodes.append(helper.make_node("Tanh", [f"h{i}"], [f"y{i}" if i < layers - 1 else "y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", _WIDTH]) for name in "xy")
    graph = helper.make_graph(nodes, "layers", [x], [y], held)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def _measured(workers: int, given: tuple[str, str, str]) -> tuple[float, float, list[list[float]]]:
    """PSS of all workers before they load, and after they ran, each while all live; and what each told."""
    command = [sys.executable, "-m", "benchmarks.memory", *given]
    start = partial(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    started = [start() for _ in range(workers)]
    told: list[list[float]] = []
    held_mb: list[float] = []
    for _ in ("before", "after"):
        told = [json.loads(process.stdout.readline()) for process in started if process.stdout]
        held_mb.append(sum(pss_mb(process.pid) for process in started))
        for process in started:
            assert process.stdin is not None, "a pipe"
            process.stdin.write("\n")
            process.stdin.flush()
    for process in started:
        process.communicate()
    return held_mb[0], held_mb[1], told


def _work(folder: str, main: str, weights: str) -> None:
    """Import what a worker imports; load when told to, run, and tell seconds of the load, milliseconds of the runs."""
    import sparkscore.scoring.scorer  # noqa: F401 - for the memory of its imports

    plan = SessionPlan(weights="lean" if weights == "lean" else "fast")
    _tell([])
    started = time.perf_counter()
    session = open_session(ModelRef(folder, "", "", "", main, ()), plan, Path(folder), warm=False)
    load_s = time.perf_counter() - started
    _tell([load_s, *(_run_ms(session, rows) for rows in (64, 1))])


def _tell(numbers: list[float]) -> None:
    print(json.dumps(numbers), flush=True)
    sys.stdin.readline()


def _run_ms(session: Session, rows: int) -> float:
    x = np.random.default_rng(1).standard_normal((rows, _WIDTH), np.float32)
    found = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        session.run({"x": x}, ["y"])
        found.append((time.perf_counter() - started) * 1000)
    return statistics.median(found)


if __name__ == "__main__":
    _work(*sys.argv[1:])
