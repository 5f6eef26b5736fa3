"""Figures from runs: slopes, who is cheaper than we are, and a page in which nothing that ran or failed is missing."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import plot, report
from benchmarks.arms import FUSED, OF_WORKLOAD, PLAIN, PLAIN_RUN, RAW, RUN, SCORE
from benchmarks.figures import figures, losses
from benchmarks.runs import HOME, difference


def _arm(small_s: list[float], large_s: list[float], wall_s: float = 1.0, **more: Any) -> dict[str, Any]:
    sizes = {"small": small_s, "large": large_s}
    runs = {size: [{"cpu_s": s, "wall_s": wall_s, "others": 0.1} for s in of] for size, of in sizes.items()}
    return {**runs, "difference": 0.0, **more}


def _found(arms: dict[str, Any]) -> dict[str, Any]:
    versions = {"Python": "3.11", "ray": "absent"}
    place = {"date": "2026-11-28", "machine": "2 cores (X), 24 GiB", "cores": 2, "versions": versions}
    return {**place, "sizes": [1_000_000, 2_000_000], "repeats": 3, "model_mb": None, "arms": arms}


def test_a_slope_leaves_start_up_out_and_one_disturbed_run_moves_it_not() -> None:
    found = _found({RAW: _arm([0.2, 0.2, 0.2], [0.4, 0.4, 0.4]), FUSED: _arm([1.5, 9.0, 1.6], [2.0, 2.2, 2.3], 0.5)})
    of = figures(found)[FUSED]
    assert of.least_s == pytest.approx(0.5e-6)
    assert of.median_s == pytest.approx(0.6e-6)
    assert of.fixed_s == pytest.approx(1.0)
    assert of.e_cpu == pytest.approx(0.4)
    assert of.e_wall == pytest.approx(0.4 / 2 / 0.5)


def test_peers_that_are_cheaper_or_quicker_are_named_and_raw_loops_are_none() -> None:
    arms = {
        RAW: _arm([0.0], [0.1]),
        FUSED: _arm([0.0], [0.5], wall_s=1.0),
        SCORE: _arm([0.0], [2.0]),
        PLAIN: _arm([0.0], [1.8], wall_s=2.0),
        "Daft, defaults": _arm([0.0], [0.4], wall_s=2.0),
        "Ray Data, tuned": _arm([0.0], [0.6], wall_s=0.8),
        RUN: _arm([0.0], [3.0], wall_s=3.0),
        PLAIN_RUN: _arm([0.0], [2.0], wall_s=4.0),
    }
    assert losses(figures(_found(arms))) == [
        f"{FUSED} takes 1.25 times the CPU a row of Daft, defaults",
        f"{FUSED} takes 1.25 times the wall time of Ray Data, tuned",
        f"{RUN} takes 1.50 times the CPU a row of {PLAIN_RUN}",
    ]


def test_an_arm_that_could_not_run_is_a_row_that_says_why() -> None:
    absent = {"error": "ModuleNotFoundError: ray"}
    arms = {RAW: _arm([0.1], [0.2]), FUSED: _arm([0.2], [0.6]), "Ray Data, tuned": absent}
    lines = report.page({"T1": _found(arms)}).splitlines()
    (row,) = [line for line in lines if line.startswith("| Ray Data, tuned")]
    assert "did not run: ModuleNotFoundError: ray" in row
    assert row.count("|") == next(line for line in lines if line.startswith("| arm")).count("|")
    assert any(line.startswith("| T1, fused, CPU ns a row | at most 650 | 400") and "met" in line for line in lines)


def test_a_missed_target_is_called_so() -> None:
    arms = {RAW: _arm([0.1], [0.2]), FUSED: _arm([0.2], [0.9])}
    assert "| at most 650 | 700, median 700 | **missed** |" in report.page({"T1": _found(arms)})


def test_the_plot_has_a_bar_for_each_arm_that_ran() -> None:
    arms = {RAW: _arm([0.1], [0.2]), FUSED: _arm([0.2], [0.6]), "Daft <x>": {"error": "x"}}
    drawn = ElementTree.fromstring(plot.svg({"T1": _found(arms)}))
    texts = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["T1: CPU µs per row", RAW, "0.10", FUSED, "0.40"]


def test_scores_of_other_rows_are_no_small_difference() -> None:
    a = {"id": np.arange(3), "p": np.array([0.1, 0.2, 0.3], np.float32)}
    b = {"id": np.arange(3), "p": np.array([0.1, 0.25, 0.3], np.float32)}
    assert difference(a, b) == pytest.approx(0.05)
    assert difference({"id": np.arange(2), "p": a["p"][:2]}, b) == "2 rows for 3"
    assert difference({**a, "p": np.array([0.1, np.nan, 0.3])}, b) == "a score is NaN"


def test_the_page_and_the_plot_are_those_of_the_figures() -> None:
    results = json.loads((HOME / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    assert (HOME / "docs" / "benchmarks.md").read_text(encoding="utf-8") == report.page(results)
    assert (HOME / "docs" / "benchmarks.svg").read_text(encoding="utf-8") == plot.svg(results)


def test_each_workload_has_a_raw_loop_and_an_arm_of_ours() -> None:
    for arms in OF_WORKLOAD.values():
        assert RAW in arms
        assert {FUSED, SCORE} & set(arms)
