"""The targets of performance.md §15 that these workloads measure, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.arms import FUSED, LEAN, PLAIN, RAW, SCORE
from benchmarks.figures import Figures, best_of_ours
from benchmarks.memory import most_mb

Given = dict[str, dict[str, Figures]]
_ARRIVAL = "predict_batch_udf, 32 as they come"


def targets(results: dict[str, Any], given: Given) -> str:
    """Give the table; a target whose arms did not run is left out."""
    rows = [*_t1(results, given), *_others(results, given), *_memory(results)]
    lines = [f"| {what} | {aim} | {got} | {'met' if met else '**missed**'} |" for what, aim, got, met in rows]
    return "\n".join(["## Targets of release 1", "", "| what | target | measured | |", "|---|---|---|---|", *lines])


def _t1(results: dict[str, Any], given: Given) -> Iterator[tuple[str, str, str, bool]]:
    for name in ("T1", "T1 pyarrow"):
        of = given.get(name, {})
        if FUSED in of:
            ns = of[FUSED].least_s * 1e9, of[FUSED].median_s * 1e9
            got = f"{ns[0]:,.0f}, median {ns[1]:,.0f}"
            yield f"{name}, fused, CPU ns a row", "at most 650", got, max(ns) <= 650
    of = given.get("T1", {})
    if FUSED in of and PLAIN in of:
        ratio = of[PLAIN].least_s / of[FUSED].least_s
        yield "T1, plain mapInArrow over fused, CPU", "at least 5", f"{ratio:.1f}", ratio >= 5
    if FUSED in of:
        rows, wall_s = results["T1"]["sizes"][1], of[FUSED].wall_s
        yield f"T1, fused, wall s of {rows:,} rows after start-up", "at most 3.5", f"{wall_s:.2f}", wall_s <= 3.5
    if "more_ns" in results.get("pairs", {}) and PLAIN in of:
        more, plain_ns = results["pairs"]["more_ns"], of[PLAIN].least_s * 1e9
        ratio, half = 1 + more["mean"] / plain_ns, more["interval"] / plain_ns
        got = f"{ratio:.3f} ± {half:.3f}"
        yield f"T1, {SCORE} over plain mapInArrow, CPU, by pairs in process", "at most 1.03", got, ratio + half <= 1.03
    if "isolation" in results.get("pairs", {}):
        more = results["pairs"]["isolation"]
        got = f"{more['mean']:.1f} ± {more['interval']:.1f} %"
        yield (
            "T1, row isolation on clean data, CPU of the scorer more",
            "at most 1 %",
            got,
            more["mean"] + more["interval"] <= 1,
        )


def _others(results: dict[str, Any], given: Given) -> Iterator[tuple[str, str, str, bool]]:
    best = {name: (arm, of[arm]) for name, of in given.items() if (arm := best_of_ours(of)) is not None}
    if "T3 binary" in best:
        us = best["T3 binary"][1].least_s * 1e6
        yield "T3 binary, CPU µs a row", "at most 20", f"{us:.1f}", us <= 20
    if "N1" in best:
        arm, of = best["N1"]
        tokens = results["N1"]["arms"][arm]["tokens"]
        yield "N1, computed over real tokens", "at most 1.05", f"{tokens:.3f}", tokens <= 1.05
        if _ARRIVAL in given["N1"]:
            ratio = given["N1"][_ARRIVAL].least_s / of.least_s
            yield f"N1, {_ARRIVAL} over ours, CPU (goal)", "at least 3.5", f"{ratio:.1f}", ratio >= 3.5
    for name, (_, of) in best.items():
        raw = given[name].get(RAW)
        if raw is not None and raw.least_s >= 50e-6:
            aim = 0.8 if name == "V1" else 0.95
            yield f"{name}, E of ours", f"at least {aim}", f"{of.e_cpu:.2f}", of.e_cpu >= aim


def _memory(results: dict[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    found = results.get("memory", {"rows": []})
    for row in (row for row in found["rows"] if row["weights"] == "lean"):
        what = f"memory of N = {row['workers']} workers, weights lean, model of {found['model_mb']:,.0f} MB, PSS MB"
        most = most_mb(found["model_mb"], row["workers"])
        yield what, f"at most {most:,.0f}", f"{row['after_mb']:,.0f}", row["after_mb"] <= most
    runs = results.get("C1", {}).get("arms", {}).get(LEAN, {}).get("runs", [])
    if runs:
        most = most_mb(results["C1"]["model_mb"], results["C1"]["cores"])
        mb = min(run["workers_mb"] for run in runs)
        yield (
            "C1, weights lean, workers in Spark with its daemon, PSS MB (decision 0027)",
            f"at most {most:,.0f}",
            f"{mb:,.0f}",
            mb <= most,
        )
