"""A driver in a process of its own, which kills or stops itself at a write of the run's protocol, or is killed there.

`python -m tests.chaos.driver DOCUMENT RUN_ID [--at C8 --when before --signal 9]`; without `--at` it runs to its end.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.store import LocalStore
from sparkscore.run import batch, folding
from sparkscore.run.delta_line import DeltaLine
from sparkscore.spark.sessions import local_session
from sparkscore.spec.pipeline import load_pipeline
from tests.protocol.world import Point, _point_of

HEARTBEAT_S = 0.5


class Doomed:
    """Gives the whole process group a signal at one point, the first time that it is reached."""

    def __init__(self, point: Point | None, signum: int) -> None:
        self.point, self.signum = point, signum

    def reach(self, name: str, when: str) -> None:
        if self.point == Point(name, when):
            self.point = None
            os.killpg(0, self.signum)  # the JVM and its workers too: nothing of the driver writes any more

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        self.reach(name, "before")
        yield
        self.reach(name, "after")

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **more: Any) -> Any:
            with self.at(name):
                return call(*args, **more)

        return called


class DoomedStore(LocalStore):
    """A ledger on disk, whose writes are points."""

    def __init__(self, root: str, doom: Doomed, units: int) -> None:
        super().__init__(root)
        self.doom, self.units = doom, units

    def put_if_absent(self, name: str, data: bytes) -> bool:
        with self.doom.at(_point_of(name, data, self.units)):
            return super().put_if_absent(name, data)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("document", type=Path)
    parser.add_argument("run_id")
    parser.add_argument("--at")
    parser.add_argument("--when", default="before")
    parser.add_argument("--signal", type=int, default=9)
    parser.add_argument("--units", type=int, default=2)
    parser.add_argument("--maintain", action="store_true", help="OPTIMIZE and VACUUM the sink, and do not run")
    given = parser.parse_args()
    doom = Doomed(Point(given.at, given.when) if given.at else None, given.signal)
    batch.open_store = lambda root: DoomedStore(root, doom, given.units)
    folding.fold_quarantine = doom.around("C11", folding.fold_quarantine)
    folding.fold_run = doom.around("C12", folding.fold_run)
    DeltaLine.sweep = doom.around("C10", DeltaLine.sweep)
    document = json.loads(given.document.read_text())
    spark = local_session("local[2,4]")
    if given.maintain:
        return _maintained(spark, document["sink"]["location"])
    try:
        batch.run_batch(spark, load_pipeline(document), given.run_id, heartbeat_s=HEARTBEAT_S)
    except SparkscoreError as failure:
        print(failure.code)
        return failure.exit_code
    return 0


def _maintained(spark: Any, sink: str) -> int:
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    spark.sql(f"OPTIMIZE delta.`{sink}`")
    spark.sql(f"VACUUM delta.`{sink}` RETAIN 1 HOURS")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
