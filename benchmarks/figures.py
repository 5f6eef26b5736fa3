"""What the runs of a workload come to: CPU a row as a slope between two sizes, efficiency, and who is cheaper than we are."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.arms import FUSED, OURS, PLAIN_RUN, RAW, RUN, SCORE


@dataclass(frozen=True)
class Figures:
    """Of one arm on one workload.

    Attributes
    ----------
    least_s, median_s : float
        CPU-seconds a row: the slope between the least, and between the median, runs of the two sizes.
    fixed_s : float
        CPU-seconds of a run beside its rows, in a session that is warm.
    wall_s : float
        Least wall time of the larger size.
    e_cpu, e_wall : float
        CPU of the raw loop over CPU of this arm, by the row; CPU of the raw loop spread over all cores over wall time.
    """

    least_s: float
    median_s: float
    fixed_s: float
    wall_s: float
    e_cpu: float
    e_wall: float


def figures(found: dict[str, Any]) -> dict[str, Figures]:
    """Give the figures of the arms that ran.

    Parameters
    ----------
    found : dict
        A workload's entry of `docs/benchmarks.json`.

    Notes
    -----
    Start-up is no part of a slope. Both ends take the least (or the median) of their own runs, so that one disturbed run
    moves neither; the slope of single pairs may even be negative.
    """
    slopes = {name: _slope(arm, found["sizes"]) for name, arm in found["arms"].items() if _ran(arm)}
    raw = slopes.get(RAW)
    given = {}
    for name, (least_s, median_s, fixed_s, wall_s) in slopes.items():
        e_cpu = raw[0] / least_s if raw and least_s > 0 else float("nan")
        whole_s = min(run["cpu_s"] for run in found["arms"][RAW]["large"]) if raw else float("nan")
        given[name] = Figures(least_s, median_s, fixed_s, wall_s, e_cpu, whole_s / found["cores"] / wall_s)
    return given


def _ran(arm: dict[str, Any]) -> bool:
    return "error" not in arm and bool(arm.get("large"))


def _slope(arm: dict[str, Any], sizes: list[int]) -> tuple[float, float, float, float]:
    small, large = ([run["cpu_s"] for run in arm[size]] for size in ("small", "large"))
    rows = sizes[1] - sizes[0]
    least = (min(large) - min(small)) / rows
    middle = (statistics.median(large) - statistics.median(small)) / rows
    return least, middle, min(small) - least * sizes[0], min(run["wall_s"] for run in arm["large"])


def best_of_ours(given: dict[str, Figures]) -> str | None:
    """Name the arm of sparkscore that takes the least CPU a row; whole runs do more, and are not meant."""
    ours = [name for name in (FUSED, SCORE) if name in given and given[name].least_s > 0]
    return min(ours, key=lambda name: given[name].least_s, default=None)


def losses(given: dict[str, Figures]) -> list[str]:
    """Say which peers are cheaper, or quicker at the larger size, than the best arm of sparkscore."""
    ours, said = best_of_ours(given), []
    if ours is None:
        return []
    peers = [name for name in given if name not in OURS and not name.startswith("raw loop") and name != PLAIN_RUN]
    pairs = [(ours, name) for name in peers]
    if RUN in given and PLAIN_RUN in given:
        pairs.append((RUN, PLAIN_RUN))
    for own, peer in pairs:
        cpu = given[own].least_s / given[peer].least_s if given[peer].least_s > 0 else 0.0
        wall = given[own].wall_s / given[peer].wall_s
        more = [
            f"{ratio:.2f} times the {what}" for ratio, what in ((cpu, "CPU a row"), (wall, "wall time")) if ratio > 1
        ]
        if more:
            said.append(f"{own} takes {' and '.join(more)} of {peer}")
    return said
