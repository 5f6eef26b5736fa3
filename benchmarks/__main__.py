"""`make bench`: measure the arms of each workload, and write docs/benchmarks.md, its plot and the figures behind both."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import plot, quick, report
from benchmarks.arms import ARMS
from benchmarks.job import WORKLOADS
from benchmarks.memory import memory
from benchmarks.pairs import pairs
from benchmarks.runs import HOME, MAX_OTHERS, Fleet, Options, measured


def main() -> None:
    """Measure what is asked for; what was measured before and is not asked for stays in the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    names = [*WORKLOADS, "pairs", "memory"]
    parser.add_argument("--workloads", type=_list, default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--arms", type=_list, default=list(ARMS), help="names of arms, or parts of them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=4, help="for the ratio of ss.score to plain mapInArrow")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes, to try things out")
    parser.add_argument("--max-others", type=float, default=MAX_OTHERS, help="cores that others may use beside a run")
    parser.add_argument("--out", type=Path, default=HOME / "docs", help="folder of benchmarks.md, .svg and .json")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the report from benchmarks.json")
    parser.add_argument("--quick", action="store_true", help="guard T1 and N1 by ratios, in this process")
    parser.add_argument("--store", action="store_true", help="with --quick: these are the ratios to guard")
    options = parser.parse_args()
    unknown = set(options.workloads) - set(names)
    if unknown:
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.quick:
        sys.exit(quick.main(store=options.store))
    if not options.render:
        _measure(options)
    results = _read(options.out)
    (options.out / "benchmarks.md").write_text(report.page(results), encoding="utf-8")
    (options.out / "benchmarks.svg").write_text(plot.svg(results), encoding="utf-8")


def _measure(options: argparse.Namespace) -> None:
    """Measure one workload after another; each is written down at once."""
    options.out.mkdir(parents=True, exist_ok=True)
    arms = tuple(name for name in ARMS if any(part in name for part in options.arms))
    chosen = Options(arms, options.repeats, options.scale, options.max_others)
    with tempfile.TemporaryDirectory(prefix="sparkscore-bench-") as scratch:
        os.environ["SPARKSCORE_CACHE"] = f"{scratch}/cache"
        fleet = Fleet(chosen)
        apart: dict[str, Callable[[Path], object]] = {
            "pairs": partial(pairs, options.sessions, chosen),
            "memory": memory,
        }
        try:
            for name in options.workloads:
                if name in apart:
                    fleet.close()
                found = apart.get(name, partial(measured, name, fleet))(Path(scratch))
                results = {**_read(options.out), name: found}
                (options.out / "benchmarks.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        finally:
            fleet.close()


def _read(folder: Path) -> dict[str, object]:
    path = folder / "benchmarks.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


if __name__ == "__main__":
    main()
