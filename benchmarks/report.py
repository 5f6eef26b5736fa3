"""The measured figures as a page of Markdown: slopes, start-up, ratios, and what they were measured on."""

from __future__ import annotations

import os
import platform
import statistics
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("pyspark", "onnxruntime", "pyarrow", "numpy", "pandas", "mlflow-skinny")


def page(results: dict[str, dict[int, list[Any]]], ratios: list[float], difference: float, options: Any) -> str:
    """Write the page."""
    small, large = options["small"], options["large"]
    slopes = {name: _slopes(runs, small, large) for name, runs in results.items()}
    floor = min(slopes["raw loop, one process"])
    low, mid, high = min(ratios), statistics.median(ratios), max(ratios)
    others = [run.get("others", 0) for runs in results.values() for found in runs.values() for run in found]
    lines = [
        "# Benchmarks",
        "",
        "T1: 30 float32 columns and an id in snappy Parquet written by Spark, MLP 30-64-32-1, one ONNX Runtime thread a",
        "task, `local[2]`, `noop` sink (the whole run writes Delta). CPU-seconds of the whole process tree (driver, JVM,",
        f"Python daemon, workers), as the slope between {small:,} and {large:,} rows, so that start-up is no part of it.",
        "Each arm has a JVM of its own; the first run is discarded; arms are interleaved there and back.",
        "",
        "| arm | CPU ns/row, min | median | x raw loop | wall s at the larger size, min |",
        "|---|---|---|---|---|",
        *(_row(name, slopes[name], results[name][large], floor) for name in results),
        "",
        f"**`ss.score` over plain `mapInArrow`: {mid:.3f}** (median over {len(ratios)} sessions, {low:.3f} to {high:.3f}; in",
        f"each two rounds A-B-B-A over {large:,} rows, every second session beginning with the other one). The plain",
        "arm does no checks and gives an error column that is always null; `ss.score` checks null, infinity and outputs,",
        "isolates bad rows and gives a struct of status and error. They and the fused scan give the same scores: the",
        f"largest difference over all rows is {difference:.2g}.",
        "",
        "What the table says against us: every `mapInArrow` path over a frame pays for moving cells through JVM rows. The",
        "fused scan does not, and is what a whole run uses here; most of what it costs over the raw loop is its three",
        "result columns on their way into the JVM. A whole run costs more, because it adds the address of each row, the",
        "struct `_ss` of each row in a Delta write, and the proof of each unit.",
        "",
        "Measured with `make bench` "
        f"({options['repeats']} repeats) on {datetime.now(UTC):%Y-%m-%d}: {_machine()}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
        + f". Input in the page cache. Cores that other processes used meanwhile: {min(others)} to {max(others)}.",
        "",
    ]
    return "\n".join(lines)


def _slopes(runs: dict[int, list[Any]], small: int, large: int) -> list[float]:
    """CPU ns/row of each repeat; empty when the arm could not run."""
    pairs = zip(runs[small], runs[large], strict=True)
    return [(b["cpu_s"][0] - a["cpu_s"][0]) / (large - small) * 1e9 for a, b in pairs if "cpu_s" in a and "cpu_s" in b]


def _row(name: str, slopes: list[float], larger: list[Any], floor: float) -> str:
    if not slopes:
        return f"| {name} | did not run: {larger[0].get('error', '')} | | | |"
    best = min(slopes)
    wall_s = min(run["wall_s"][0] for run in larger if "wall_s" in run)
    return f"| {name} | {best:,.0f} | {statistics.median(slopes):,.0f} | {best / floor:.1f} | {wall_s:.1f} |"


def _machine() -> str:
    models = [s.split(":", 1)[1].strip() for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return f"{os.cpu_count()} cores ({models[0] if models else 'unknown'}), {memory_kib / 2**20:.0f} GiB"
