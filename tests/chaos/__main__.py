"""`make chaos`: play the faults of the reliability table with real processes, and write docs/reliability.md.

`python -m tests.chaos --only F7,F10 --seeds 1 --seed 42 --write`. The seeds are printed; the same ones give the same
faults again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos import report
from tests.chaos.catalogue import FAULTS, Fault
from tests.chaos.drivers import HOWS, POINTS, crash_point
from tests.chaos.stage import NotHere, Seen, Stage
from tests.chaos.stores import proxied_s3

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HOME = Path(__file__).parents[2]
SESSIONS: dict[str, tuple[str, dict[str, str]]] = {
    "local": ("local[2,4]", {"spark.databricks.delta.snapshotPartitions": "1"}),
    "cluster": (
        "local-cluster[2,1,1024]",
        {
            "spark.executor.memory": "700m",
            "spark.speculation": "true",
            "spark.speculation.interval": "200ms",
            "spark.speculation.quantile": "0.3",
            "spark.speculation.minTaskRuntime": "1500ms",
            "spark.sql.files.maxPartitionBytes": "40000",  # a task a file
            "spark.sql.files.openCostInBytes": "1",
        },
    ),
    # The number of tries is S3A's own; only the waits between them are shorter.
    "s3": (
        "local[2,4]",
        {f"spark.hadoop.fs.s3a.{name}": "20ms" for name in ("retry.interval", "retry.throttle.interval")},
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds a fault is played with")
    parser.add_argument("--only", default="", help="faults, as F7,F10, or crash points, as C5-before-twin")
    parser.add_argument("--points", action="store_true", help="all 72 crash points too")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--write", action="store_true", help="put what was played into docs/reliability.md")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.seeds = 1 if given.quick else given.seeds
    if given.group:
        return _play_group(given)
    faults, points = _chosen(given.only, given.points)
    print(f"seed {given.seed}, {given.seeds} a fault: {', '.join([*(f.id for f in faults), *points])}", flush=True)
    found = []
    for group in dict.fromkeys([*(f.group for f in faults), *(["local"] if points else [])]):
        names = [f.id for f in faults if f.group == group] + (list(points) if group == "local" else [])
        command = [sys.executable, "-m", "tests.chaos", "--group", group, "--only", ",".join(names)]
        told = []
        for one in _lines([*command, "--seed", str(given.seed), "--seeds", str(given.seeds)]):
            told.append(one)
            if given.write:  # at once: the kit itself may be stopped
                report.keep([one])
        silent = set(names) - {one["fault"] for one in told}
        found += told
        if silent:
            print(f"BROKEN: the process of {group} ended before {', '.join(sorted(silent))}")
            return 1
    broken = [one for one in found if one["failures"]]
    print(f"{len(found) - len(broken)} of {len(found)} held")
    return 1 if broken or not found else 0


def _chosen(only: str, all_points: bool) -> tuple[list[Fault], list[str]]:
    names = [name for name in only.split(",") if name]
    every = [f"{p}-{when}-{how}" for p in POINTS for when in ("before", "after") for how in HOWS]
    unknown = set(names) - {f.id for f in FAULTS} - set(every)
    if unknown:
        raise SystemExit(f"no such fault or crash point: {', '.join(sorted(unknown))}")
    faults = [f for f in FAULTS if f.id in names or not names]
    return faults, every if all_points else [name for name in every if name in names]


def _lines(command: list[str]) -> Iterator[dict[str, Any]]:
    """Run a group in a process of its own, and pass on what it tells; what Spark says meanwhile is kept beside it."""
    with (
        tempfile.NamedTemporaryFile("w", prefix="chaos-", suffix=".log", delete=False) as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=HOME) as process,
    ):
        print(f"Spark's own words: {log.name}", flush=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"fault"'):
                one = json.loads(line)
                print(report.line(one), flush=True)
                yield one


def _play_group(given: argparse.Namespace) -> int:
    faults, points = _chosen(given.only, False)
    faults = [f for f in faults if f.group == given.group and f.id in given.only.split(",")]
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    cleanup = ExitStack()
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    if given.group == "s3":
        cleanup.enter_context(proxied_s3(folder))
    spark = _session(given.group, folder)
    try:
        for fault in faults:
            for turn in range(given.seeds):
                _tell(fault.id, fault.play, Stage(spark, folder / f"{fault.id}-{turn}", given.seed + turn))
        for name in points:
            point, when, how = name.split("-")
            stage = Stage(spark, folder / name, given.seed)
            _tell(name, lambda stage, at=(point, when, how): crash_point(stage, *at), stage)
    finally:
        spark.stop()
        cleanup.close()
    return 0


def _session(group: str, folder: Path) -> SparkSession:
    """Start the group's session, whose workers have the plant."""
    from sparkscore.spark.sessions import local_session

    (folder / "plant").mkdir()
    shutil.copy(Path(__file__).parent / "plant.py", folder / "plant" / "sitecustomize.py")
    os.environ["PYTHONPATH"] = f"{folder / 'plant'}{os.pathsep}{HOME}"
    os.environ["SPARKSCORE_CHAOS_ORDERS"] = str(folder / "orders.json")
    os.environ["SPARKSCORE_CACHE"] = str(folder / "cache")
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m")
    master, conf = SESSIONS[group]
    places = ["s3a://lake"] if group == "s3" else []
    return local_session(master, {**conf, "spark.sql.warehouse.dir": str(folder / "warehouse")}, places)


def _tell(name: str, play: Any, stage: Stage) -> None:
    stage.folder.mkdir()
    since = time.monotonic()
    try:
        seen: Seen | None = play(stage)
        failures, why = list(seen.failures) if seen else [], ""
    except NotHere as cause:
        seen, failures, why = None, [], str(cause)
    except Exception as cause:  # boundary: told, and the next fault is played
        seen, failures, why = None, [f"{type(cause).__name__}: {str(cause)[:600]}"], ""
    told = {
        "fault": name,
        "seed": stage.seed,
        "protected": str(seen.protected) if seen else "",
        "ended": seen.ended if seen else f"not run: {why}" if why else "broke",
        "unprotected": seen.unprotected if seen else "",
        "failures": failures,
        "seconds": round(time.monotonic() - since, 1),
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
