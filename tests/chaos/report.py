"""What was played, as docs/reliability.md: a row a fault, its seeds, and the same without the protection."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.chaos.catalogue import FAULTS, Fault
from tests.chaos.drivers import HOWS, POINTS

__all__ = ["PAGE", "PLAYED", "keep", "line", "page"]

HOME = Path(__file__).parents[2]
PAGE = HOME / "docs" / "reliability.md"
PLAYED = Path(__file__).parent / "played.json"  # the newest result of each fault, point and seed

_HEAD = """# What dies, and what becomes of the rows

`make chaos` (`python -m tests.chaos --write`) writes this page from what was played; nobody edits it. Each fault is
played with real processes (Spark, Delta, ONNX Runtime, executors and drivers that get real signals), once with the
product as it is and once without the protection that the fault is about. The sink is then read by delta-rs, which
shares no code with the writer, and compared with a run that nothing disturbed, as a multiset of keys and of the sha256
of what each row came to. *Exact* means: no row lost, none there twice, none another, and the run's own books agree with
the table.

A seed decides which rows, files, moments or processes a fault hits, and plays it again
(`python -m tests.chaos --only F7 --seeds 1 --seed 3`). What was not played says so.
"""
_POINTS_HEAD = """
## Crash points
The twelve points of a run's protocol in the order of time, each right before and right after the write. *Resume*: the
driver's whole process group is killed, and the same run id is started again. *Rerun*: the second driver is killed there
too. *Twin*: the driver is stopped there, another one runs to the end, and it wakes. After each, one more start changes
nothing. All 72, and twins that wake while their successor works, are also played in memory in each run of the tests
(`tests/protocol`), together with random orders of starts, kills, pauses and lost commits.

| point | | resume | rerun | twin |
|---|---|---|---|---|
"""
_WHAT = {
    "C1": "plan written",
    "C2": "claim written",
    "C3": "first data file of a unit",
    "C4": "last task of a unit done",
    "C5": "a unit's commit",
    "C6": "the last unit's commit",
    "C7": "proof of the last unit",
    "C8": "publish",
    "C11": "quarantine fold",
    "C9": "ledger close",
    "C12": "fold of the ledger's tables",
    "C10": "clean-up",
}


def line(one: dict[str, Any]) -> str:
    """Tell of one fault with one seed, for a person who waits."""
    verdict = "BROKEN " + "; ".join(one["failures"]) if one["failures"] else one["protected"] or one["ended"]
    told = f"{one['fault']} seed {one['seed']} ({one['seconds']} s): {verdict}; {one['ended']}"
    return told + (f" | without: {one['unprotected']}" if one["unprotected"] not in ("", "-") else "")


def keep(found: Sequence[dict[str, Any]]) -> None:
    """Put what was played beside what was played before, newest first to stay, and write the page."""
    played = json.loads(PLAYED.read_text(encoding="utf-8")) if PLAYED.exists() else []
    now = [{**one, "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": _machine()} for one in found]
    fresh = {(one["fault"], one["seed"]) for one in now}
    every = [*(one for one in played if (one["fault"], one["seed"]) not in fresh), *now]
    every.sort(key=lambda one: (one["fault"], one["seed"]))
    PLAYED.write_text("[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in every) + "\n]\n", "utf-8")
    PAGE.write_text(page(every), encoding="utf-8")


def page(played: Sequence[dict[str, Any]]) -> str:
    """Write the page of what was played."""
    by_fault: dict[str, list[dict[str, Any]]] = {}
    for one in played:
        by_fault.setdefault(one["fault"], []).append(one)
    rows = [_fault_row(fault, by_fault.get(fault.id, [])) for fault in FAULTS]
    held = sum(not one["failures"] and one["protected"] == "exact" for one in played)
    points = [_point_row(name, when, by_fault) for name in POINTS for when in ("before", "after")]
    where = "; ".join(sorted({f"{one['date']}, {one['machine']}" for one in played}))
    parts = [
        _HEAD,
        f"\n{held} of {len(played)} plays were exact ({where}).\n",
        "\n## Faults\n| | fault | seeds | rows | how it ended | without protection | s |\n",
        "|---|---|---|---|---|---|---|\n",
        "\n".join(rows),
        "\n\nNot here: F18 needs a GPU, and `tests/scoring/test_gpu.py` plays it on one; F23 and F24 are of streams.\n",
        _POINTS_HEAD,
        "\n".join(points),
        "\n",
    ]
    return "".join(parts)


def _fault_row(fault: Fault, played: Sequence[dict[str, Any]]) -> str:
    if not played:
        return f"| {fault.id} | {fault.what} | | not run | | | |"
    cells = [
        fault.id,
        fault.what,
        ", ".join(str(one["seed"]) for one in played),
        _each(_rows(one) for one in played),
        _each(one["ended"] for one in played),
        "-" if fault.without == "-" else f"{fault.without}: " + _each(one["unprotected"] for one in played),
        f"{max(one['seconds'] for one in played):.0f}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rows(one: dict[str, Any]) -> str:
    return f"**broken**: {'; '.join(one['failures'])}" if one["failures"] else one["protected"] or "not run"


def _each(texts: Any) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _point_row(name: str, when: str, by_fault: dict[str, list[dict[str, Any]]]) -> str:
    cells = [_each(_rows(one) for one in by_fault.get(f"{name}-{when}-{how}", [])) or "not run" for how in HOWS]
    return f"| {name} {_WHAT[name]} | {when} | {' | '.join(cells)} |"


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyspark", "delta-spark", "onnxruntime", "deltalake"))
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {packages}"
