"""The measured figures as a page of Markdown: a table a workload, where we lose, the targets, and what they were measured on."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import memory
from benchmarks.arms import ARMS, OURS, PLAIN, SCORE
from benchmarks.figures import Figures, best_of_ours, figures, losses
from benchmarks.job import WORKLOADS
from benchmarks.targets import targets

_HEAD = """# Benchmarks

![CPU of the arms](benchmarks.svg)

CPU-seconds are those of the whole process tree (driver, JVM, Python workers, daemons of Ray), by sampling /proc. **CPU a
row** is the slope between the two sizes, between the least and between the median of the runs, so that start-up is no part
of it; **fixed** is what a run costs beside its rows in a session that is warm. **E** is the raw loop's CPU over the arm's,
**to ours** the arm's CPU over that of sparkscore's best arm, **E wall** the raw loop's CPU at the larger size, spread over
all cores, over the arm's wall time. **Apart** is the largest difference of a score from the raw loop's over all rows of the
smaller input. Each arm has a process of its own, and a JVM where it needs one; its first run is not kept; arms take turns,
there and back. One ONNX Runtime thread a task, `local[2]`, the same model and version everywhere, values drawn at random for
every row, input in the page cache. Sinks are `noop` (Ray and Daft: computed and dropped) unless an arm names Delta. A run
beside which other processes used more than 0.3 cores was discarded and repeated, at most twice; what they used beside the
runs that count is told below each table."""


def page(results: dict[str, Any]) -> str:
    """Write the page.

    Parameters
    ----------
    results : dict
        `docs/benchmarks.json`: workload -> what was measured, "pairs" and "memory".
    """
    measured = {name: results[name] for name in WORKLOADS if name in results}
    given = {name: figures(found) for name, found in measured.items() if name != "C1"}
    parts = [_HEAD, _losses(given), targets(results, given)]
    parts += [_section(name, found, given.get(name, {})) for name, found in measured.items()]
    if "pairs" in results:
        parts.append(_pairs(results["pairs"]))
    if "memory" in results:
        parts.append(memory.section(results["memory"]))
    return "\n\n".join(parts) + "\n"


def _losses(given: dict[str, dict[str, Figures]]) -> str:
    lines = ["## Where sparkscore loses", ""]
    for name, of_arms in given.items():
        found = losses(of_arms)
        lines += [f"- {name}: {text}." for text in found] or [f"- {name}: to no peer, in CPU a row or in wall time."]
    lines += ["", "The raw loops are the floor, not peers: E says how far each arm is from them."]
    return "\n".join(lines)


def _section(name: str, found: dict[str, Any], given: dict[str, Figures]) -> str:
    of = WORKLOADS[name]
    table = _cold_table(found) if name == "C1" else _table(of.unit, found, given)
    return "\n".join([f"## {name}: {of.title}", "", *table, "", *_notes(found), _measured(name, found)])


def _table(unit: str, found: dict[str, Any], given: dict[str, Figures]) -> list[str]:
    large = found["sizes"][1]
    has_tokens = any("tokens" in arm for arm in found["arms"].values())
    heads = [
        f"CPU µs per {unit}, least",
        "median",
        "E",
        "to ours",
        "fixed CPU s",
        f"wall s, {large:,}",
        "E wall",
        "apart",
    ]
    heads += ["computed/real tokens"] if has_tokens else []
    lines = [f"| arm | {' | '.join(heads)} | notes |", "|---" * (len(heads) + 2) + "|"]
    ours = best_of_ours(given)
    for name, arm in found["arms"].items():
        if name not in given:
            lines.append(f"| {name} | did not run: {arm.get('error', 'no run')}{' |' * (len(heads) + 1)}")
            continue
        of = given[name]
        cells = [_number(of.least_s * 1e6), _number(of.median_s * 1e6)]
        cells += [f"{of.e_cpu:.2f}", f"{of.least_s / given[ours].least_s:.2f}"] if ours and of.least_s > 0 else ["", ""]
        cells += [f"{of.fixed_s:.1f}", f"{of.wall_s:.2f}", f"{of.e_wall:.2f}", _apart(arm["difference"])]
        cells += [f"{arm['tokens']:.3f}"] if has_tokens else []
        bold = "**" if name in OURS else ""
        lines.append(f"| {bold}{name}{bold} | {' | '.join(cells)} | {_letter(name, found)} |")
    return lines


def _cold_table(found: dict[str, Any]) -> list[str]:
    heads = ["wall s to the result, least", "median", "CPU s", "PSS MB: driver", "workers", "JVM"]
    lines = [f"| arm | {' | '.join(heads)} | notes |", "|---" * (len(heads) + 2) + "|"]
    for name, arm in found["arms"].items():
        runs = arm["runs"]
        if not runs:
            lines.append(f"| {name} | did not run: {arm.get('error', 'no run')}{' |' * (len(heads) + 1)}")
            continue
        walls = [run["wall_s"] for run in runs]
        cells = [f"{min(walls):.1f}", f"{statistics.median(walls):.1f}", f"{min(run['cpu_s'] for run in runs):.1f}"]
        cells += [f"{min(run[key] for run in runs):,.0f}" for key in ("driver_mb", "workers_mb", "java_mb")]
        bold = "**" if name in OURS else ""
        lines.append(f"| {bold}{name}{bold} | {' | '.join(cells)} | {_letter(name, found)} |")
    return lines


def _lacking(found: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(ARMS[name].lacks for name in found["arms"] if ARMS[name].lacks))


def _letter(name: str, found: dict[str, Any]) -> str:
    lacks = ARMS[name].lacks
    return chr(ord("a") + _lacking(found).index(lacks)) if lacks else ""


def _notes(found: dict[str, Any]) -> list[str]:
    lacking = [f"{chr(ord('a') + i)}: {text}." for i, text in enumerate(_lacking(found))]
    return ["Notes: " + " ".join(lacking), ""] if lacking else []


def _measured(name: str, found: dict[str, Any]) -> str:
    runs = [run for arm in found["arms"].values() for key in ("small", "large", "runs") for run in arm.get(key, [])]
    others = [run["others"] for run in runs] or [0.0]
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items() if number != "absent")
    sizes = "" if name == "C1" else f" at {found['sizes'][0]:,} and {found['sizes'][1]:,}"
    return (
        f"`python -m benchmarks --workloads '{name}'` on {found['date']}, {found['repeats']} repeats{sizes}; "
        f"{found['machine']}; {versions}. Cores that other processes used meanwhile: {min(others):.2f} to "
        f"{max(others):.2f}."
    )


def _pairs(found: dict[str, Any]) -> str:
    ratios = found["ratios"]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    more, isolated = found["more_ns"], found["isolation"]
    return (
        f"## {SCORE} over {PLAIN}, near 1\n\n**{middle:.3f}** on T1 (median over {len(ratios)} sessions, {low:.3f} to "
        f"{high:.3f}; in each two rounds A-B-B-A over {found['rows']:,} rows in one JVM, every second session beginning "
        f"with the other one; {found['date']}, {found['machine']}). The plain arm does no checks and gives an error column "
        f"that is always null; `ss.score` checks null, infinity and outputs, isolates bad rows and gives a struct of "
        f"status and error. Single slopes, in the tables above, differ by more than this from run to run. "
        f"In one process, on the same batches of 10,000 rows, the workers' part of `ss.score` takes {more['mean']:.0f} ± "
        f"{more['interval']:.0f} ns of CPU a row more (40 pairs A-B-B-A, 95 % interval); the rest is in the JVM.\n\n"
        f"Row isolation on clean data adds **{isolated['mean']:.1f} ± {isolated['interval']:.1f} %** to the CPU of the "
        f"scorer on T1 ({isolated['cost_ms']:.1f} ms a batch of 65,536 rows, in calls of 8,192; one process, with and "
        f"without it in turns, A-B-B-A; 95 % interval over 40 blocks). `python -m benchmarks.safety` says so of larger "
        f"models, and what crumbs and the guard add."
    )


def _number(value: float) -> str:
    if value <= 0:
        return "below noise"
    return f"{value:,.3f}" if value < 10 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _apart(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1g}"
