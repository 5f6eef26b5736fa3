"""`python -m benchmarks.memory`: memory, load and runs of workers that hold the same weights in each form, as a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sparkscore.runtime.cache import local_folder
from sparkscore.runtime.models import pin
from sparkscore.runtime.session import Session, open_session
from sparkscore.spec.scoring import ModelRef, SessionPlan

_WIDTH = 1024
_RUNS = 15


def main() -> None:
    """Measure each form with each number of workers, and print the table; as a worker, be one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--layers", type=int, default=40, help="of 1024 x 1024 float32, 4.2 MB each")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(*options.worker)
        return
    with tempfile.TemporaryDirectory(prefix="sparkscore-bench-") as scratch:
        os.environ["SPARKSCORE_CACHE"] = f"{scratch}/cache"
        model = write_model(Path(scratch) / "model" / "model.onnx", options.layers)
        ref = pin(str(model)).ref
        forms = {  # of a file with nothing beside it, as of one of less than 64 MB, each process takes a copy
            "embedded": (str(model.parent), "fast"),
            "fast": (str(local_folder(ref)), "fast"),
            "lean": (str(local_folder(ref)), "lean"),
        }
        model_mb = ref.files[0].size_bytes / 1e6
        print(f"{_machine()}. Model of {model_mb:.0f} MB.\n")
        print(
            "| weights | workers | MB before the load | MB after runs | release | goal | load s | 64 rows ms | 1 row ms |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for name, (folder, weights) in forms.items():
            for workers in options.workers:
                before, after, told = _measured(workers, (folder, ref.main, weights))
                targets = f"{1.3 * model_mb + workers * 80:.0f} | {1.2 * model_mb + workers * 60:.0f}"
                times = " | ".join(f"{statistics.median(t[i] for t in told):.3g}" for i in range(3))
                print(f"| {name} | {workers} | {before:.0f} | {after:.0f} | {targets} | {times} |", flush=True)


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
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", *given]
    start = partial(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    started = [start() for _ in range(workers)]
    told: list[list[float]] = []
    held_mb: list[float] = []
    for _ in ("before", "after"):
        told = [json.loads(process.stdout.readline()) for process in started if process.stdout]
        held_mb.append(sum(_pss_mb(process.pid) for process in started))
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


def _pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")) / 1e6


def _machine() -> str:
    cpu = next(
        (s.split(":")[1].strip() for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s), "?"
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "pyarrow", "numpy"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores ({cpu}); Python {platform.python_version()}, {packages}"
    )


if __name__ == "__main__":
    main()
