"""`make bench`: run every arm at two sizes, interleaved, and write the table into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.arms import ARMS
from benchmarks.workload import write_model, write_rows

HOME = Path(__file__).parents[1]
MAX_OTHERS = 0.3  # cores that other processes may use while an arm is measured; the load average would count the arm
_TRIES = 3  # of a run that was measured while something else kept the machine busy


class Arm:
    """A process that runs one arm when it is asked; its session stays, so only the first run is cold."""

    def __init__(self, name: str, model: Path) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.arm", name, str(model)]
        self._process = subprocess.Popen(
            command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def run(self, rows: Path) -> dict[str, Any]:
        """Run once; a run beside which something else kept the machine busy is repeated, and marked when it stays so."""
        for _ in range(_TRIES):
            answer = self._ask(rows)
            if answer.get("others", 0) <= MAX_OTHERS:
                break
        return answer

    def _ask(self, rows: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{rows}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("@"):
                answer: dict[str, Any] = json.loads(line[1:])
                return answer
        return {"error": "the process ended"}

    def close(self) -> None:
        """End the process and its JVM."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--small", type=int, default=1_000_000, help="rows of the smaller input")
    parser.add_argument("--large", type=int, default=4_000_000, help="rows of the larger input")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=8, help="sessions for the ratio to plain mapInArrow")
    parser.add_argument("--out", type=Path, default=HOME / "docs" / "benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sparkscore-bench-") as scratch:
        folder = Path(scratch)
        os.environ["SPARKSCORE_CACHE"] = str(folder / "cache")
        model = write_model(folder / "mlp.onnx")
        sizes = {n: folder / f"rows-{n}" for n in (options.small, options.large)}
        _prepare(sizes)
        difference = _equality(sizes[options.small], model)
        results = _arms(list(ARMS), model, sizes, options.repeats)
        ratios = _pairs(model, sizes[options.large], options.sessions)
    options.out.write_text(report.page(results, ratios, difference, vars(options)), encoding="utf-8")
    print(options.out.read_text(encoding="utf-8"))


def _prepare(sizes: dict[int, Path]) -> None:
    from sparkscore.spark.sessions import local_session

    spark = local_session("local[2]")
    for rows, folder in sizes.items():
        write_rows(spark, folder, rows)
    spark.stop()


def _equality(rows: Path, model: Path) -> float:
    """Largest difference of ss.score and of the fused scan from plain mapInArrow over all rows."""
    from pyspark.sql import functions as F

    from benchmarks.arms import fused_frame, plain_frame, sparkscore_frame
    from sparkscore.spark.sessions import local_session

    spark = local_session("local[2]")
    ours = sparkscore_frame(spark, rows, str(model)).select("id", F.col("p").alias("ours"))
    fused = fused_frame(spark, rows, str(model)).select("id", F.col("p").alias("fused"))
    all_three = ours.join(fused, "id").join(plain_frame(spark, rows, str(model)), "id")
    largest = F.greatest(F.abs(F.col("ours") - F.col("p")), F.abs(F.col("fused") - F.col("p")))
    found = all_three.agg(F.max(largest), F.count("*")).collect()[0]
    spark.stop()
    assert found[1] == int(rows.name.removeprefix("rows-")), "a row is missing in one of the arms"
    return float(found[0])


def _arms(names: list[str], model: Path, sizes: dict[int, Path], repeats: int) -> dict[str, dict[int, list[Any]]]:
    """Run the arms in order, then back, A-B-B-A; the first run of each is a warm-up and is not kept."""
    arms = [Arm(name, model) for name in names]
    results: dict[str, dict[int, list[Any]]] = {name: {n: [] for n in sizes} for name in names}
    try:
        for arm in arms:
            arm.run(next(iter(sizes.values())))
        for repeat in range(repeats):
            for arm in arms if repeat % 2 == 0 else reversed(arms):
                for rows, folder in sizes.items():
                    answer = arm.run(folder)
                    results[arm.name][rows].append(answer)
                    print(arm.name, rows, answer, flush=True)
    finally:
        for arm in arms:
            arm.close()
    return results


def _pairs(model: Path, rows: Path, sessions: int) -> list[float]:
    """CPU of ss.score over that of plain mapInArrow, in each of several sessions.

    A session runs both there and back, A-B-B-A, twice; every second session begins with the other one. What a JVM's
    compilers make of the same code differs by some 15 % from one session to the next, so only sessions count.
    """
    ratios = []
    for i in range(sessions):
        arm = Arm("pair" if i % 2 == 0 else "pair back", model)
        try:
            arm.run(rows)  # the compilers are at work in the first runs
            rounds = [arm.run(rows)["cpu_s"] for _ in range(2)]
        finally:
            arm.close()
        outer, inner = (sum(a + d for a, _, _, d in rounds), sum(b + c for _, b, c, _ in rounds))
        ratios.append(inner / outer if i % 2 == 0 else outer / inner)
        print("session", i, rounds, round(ratios[-1], 3), flush=True)
    return ratios


if __name__ == "__main__":
    main()
