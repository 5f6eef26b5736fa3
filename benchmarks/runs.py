"""Arms as processes that are asked in turn, A-B-B-A: what each run used, and whether its scores are the raw loop's."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arms import ARMS, OF_WORKLOAD, RAW
from benchmarks.job import WORKLOADS, Job

HOME = Path(__file__).parents[1]
MAX_OTHERS = 0.3  # cores that other processes may use while an arm is measured; the load average would count the arm
_MOST_S = 240  # of one run
_TRIES = 3  # of a run that was measured while something else kept the machine busy
_PACKAGES = ("pyspark", "delta-spark", "onnxruntime", "pyarrow", "numpy", "pandas", "mlflow-skinny", "ray", "daft")


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    arms: tuple[str, ...]
    repeats: int = 3
    scale: float = 1.0  # of the sizes, to try things out
    max_others: float = MAX_OTHERS


class Process:
    """A process that runs one arm when it is asked; its session stays, so only the first run is cold."""

    def __init__(self, name: str, max_others: float = MAX_OTHERS) -> None:
        self.name = name
        self.max_others = max_others
        command = [sys.executable, "-m", "benchmarks.arm", name]
        self._process = subprocess.Popen(
            command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def run(self, job: Job) -> dict[str, Any]:
        """Run once; a run beside which something else kept the machine busy is discarded, up to twice."""
        for _ in range(_TRIES):
            answer = self.ask(job)
            if max(answer.get("others", [0.0])) <= self.max_others:
                break
        return answer

    def ask(self, job: Job) -> dict[str, Any]:
        """Run once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(replace(job, arrival=_arrival(self.name)))) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": "the process ended"}
        late = threading.Timer(_MOST_S, self._process.kill)
        late.start()
        try:
            told = next((line for line in self._process.stdout if line.startswith("@")), None)
            was_late = not late.is_alive()
        finally:
            late.cancel()
        if told is not None:
            answer: dict[str, Any] = json.loads(told[1:])
            return answer
        return {"error": f"no answer within {_MOST_S} s" if was_late else "the process ended"}

    def close(self) -> None:
        """End the process and its JVM."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died before it read all of it
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Fleet:
    """The processes of all arms, each started when it is first asked, and anew when it died."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._processes: dict[str, Process] = {}

    def __getitem__(self, name: str) -> Process:
        if name not in self._processes or not self._processes[name].alive:
            self._processes[name] = Process(name, self.options.max_others)
        return self._processes[name]

    def close(self) -> None:
        """End all."""
        for process in self._processes.values():
            process.close()
        self._processes.clear()


def measured(name: str, fleet: Fleet, scratch: Path) -> dict[str, Any]:
    """Measure a workload: the arms in order, then back; the first run of each writes its scores, and is not kept."""
    options = fleet.options
    of, folder = WORKLOADS[name], scratch / name.replace(" ", "-")
    model = str(of.write_model(folder / "model"))
    model_mb = round(Path(model).stat().st_size / 1e6, 1)
    sizes = [max(1, round(rows * options.scale)) for rows in of.sizes]
    jobs = [Job(name, str(of.write(folder / f"rows-{n}", n)), model) for n in sizes]
    arms = [arm for arm in OF_WORKLOAD[name] if arm in options.arms or arm == RAW]
    found = _cold(arms, jobs[0], fleet) if name == "C1" else _warm(arms, jobs, fleet)
    shutil.rmtree(folder)
    return {**circumstances(), "sizes": sizes, "repeats": options.repeats, "model_mb": model_mb, "arms": found}


def _warm(arms: Sequence[str], jobs: Sequence[Job], fleet: Fleet) -> dict[str, Any]:
    expected: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for name in arms:
        found[name] = _first(fleet[name], jobs[0], expected)
        print(jobs[0].workload, name, found[name], flush=True)
    for repeat in range(fleet.options.repeats):
        for name in arms if repeat % 2 == 0 else reversed(arms):
            if "error" not in found[name]:
                _visit(found[name], fleet[name], jobs)
    return found


def _visit(found: dict[str, Any], process: Process, jobs: Sequence[Job]) -> None:
    """Measure an arm at both sizes.

    Spark ends a Python worker that was idle for a minute: a first run, not kept, brings the workers and their sessions
    back, which would else be counted in the smaller input alone.
    """
    process.ask(jobs[0])
    for size, job in zip(("small", "large"), jobs, strict=True):
        answer = process.run(job)
        if "error" in answer:
            found["error"] = answer["error"]
            return
        run = {key: answer[key][0] for key in ("cpu_s", "wall_s", "others")}
        found[size].append(run)
        print(job.workload, process.name, size, run, flush=True)


def _first(process: Process, job: Job, expected: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run an arm once on the small input, and compare what it gives with the raw loop."""
    out = Path(f"{job.folder}-out")
    answer = process.ask(replace(job, out=str(out)))
    if "error" in answer:
        return answer
    results = results_of(out)
    shutil.rmtree(out)
    expected |= {} if expected else results
    said: dict[str, Any] = {"difference": difference(results, expected), "small": [], "large": []}
    if "width" in results:
        said["tokens"] = float(results["width"].sum() / results["tokens"].sum())
    return said


def results_of(folder: Path) -> dict[str, np.ndarray]:
    """Read what an arm wrote, in the order of the ids."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder)
    order = np.argsort(table["id"].to_numpy(), kind="stable")
    return {
        name: table[name].to_numpy()[order] for name in table.column_names if name in ("id", "p", "width", "tokens")
    }


def difference(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float | str:
    """Give the largest difference of two arms' scores; a text where they have not scored the same rows."""
    if not np.array_equal(results["id"], expected["id"]):
        return f"{len(results['id'])} rows for {len(expected['id'])}"
    apart = np.abs(results["p"].astype(np.float64) - expected["p"])
    return "a score is NaN" if np.isnan(apart).any() else float(apart.max())


def _cold(arms: Sequence[str], job: Job, fleet: Fleet) -> dict[str, Any]:
    """Start each arm anew for each run: from the start of its process to its answer."""
    fleet.close()
    found: dict[str, Any] = {name: {"runs": []} for name in arms}
    for repeat in range(fleet.options.repeats):
        for name in arms if repeat % 2 == 0 else reversed(arms):
            started = time.monotonic()
            process = Process(name)
            try:
                answer = process.ask(job)
                wall_s = time.monotonic() - started
            finally:
                process.close()
            if "error" in answer:
                found[name]["error"] = answer["error"]
                continue
            run = {key: values[0] for key, values in answer.items()}
            found[name]["runs"].append({**run, "wall_s": round(wall_s, 2), "cpu_s": run["all_cpu_s"]})
            print("C1", name, found[name]["runs"][-1], flush=True)
    return found


def circumstances() -> dict[str, Any]:
    """Give the date, the machine and the versions."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "cores": os.cpu_count(),
        "versions": _versions(),
    }


def machine() -> str:
    """Name the machine's processor and memory."""
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return f"{os.cpu_count()} cores ({processor()}), {memory_kib / 2**20:.0f} GiB"


def processor() -> str:
    """Name the processor: its model, and its family and number, which a hypervisor leaves in place."""
    text = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    numbers = "-".join(fields[key] for key in ("cpu family", "model") if key in fields)
    return f"{fields.get('model name', platform.machine())} {numbers}".strip()


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _arrival(name: str) -> bool:
    return name in ARMS and ARMS[name].arrival
