"""A world in memory for the run's protocol: a store, a Delta table and time, and drivers that move step by step.

What the drivers execute is the product's own code from `run_batch` down to the writer options of a unit and the
readings of the log. What stands in for Spark, Delta and the disk is here: the few facts of each that the protocol rests
on. Every write is a point at which a driver may die or stand still, right before and right after it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger import claims, heartbeats
from sparkscore.ledger.heartbeats import Owner
from sparkscore.ledger.store import Store
from sparkscore.run import batch, folding
from tests.protocol import staged, stand_ins

__all__ = ["Death", "Driver", "Point", "World"]

RUN = "r1"


class Death(BaseException):
    """The driver is gone: nothing of it writes any more."""


@dataclass(frozen=True)
class Point:
    """A write of a driver, by its crash point (`reliability.md` 7.6) or, where it has none, by what it writes."""

    name: str
    when: str  # before | after


@dataclass
class World:
    """What outlives every driver, and the switches of what this world does."""

    line: str = "delta"  # of `stand_ins.SINKS`
    units: int = 3
    objects: dict[str, bytes] = field(default_factory=dict)
    log: list[stand_ins.Entry] = field(default_factory=list)  # of the sink; the position is the version
    files: dict[str, tuple[stand_ins.Row, ...]] = field(default_factory=dict)  # of a staged line
    folders: set[str] = field(default_factory=set)
    quarantine: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    tables: dict[tuple[str, int], Any] = field(default_factory=dict)
    drivers: list[Driver] = field(default_factory=list)
    model: int = 0  # grows with each look at the input: two drivers that plan pin different models
    tasks: int = 0
    clock_s: float = 0.0
    broken: frozenset[str] = frozenset()  # protections that are off

    def start(self, *, take_over: bool = False) -> Driver:
        """Start a driver of the run, which stands before its first write."""
        driver = Driver(self, len(self.drivers), take_over)
        self.drivers.append(driver)
        driver.start()
        driver.parked.acquire()
        return driver

    def rows(self) -> list[stand_ins.Row]:
        """The rows that a reader of the sink sees: of a table its log's, of files those of the run's manifest."""
        if self.line != "files":
            return [row for entry in self.log for row in entry.rows]
        manifest = json.loads(self.objects.get(f"_manifests/{RUN}/run.json", b'{"files": []}'))
        base = f"{staged.SINK}/{manifest.get('base', '')}".rstrip("/")
        return [row for name in manifest["files"] for row in self.files[f"{base}/{name}"]]

    def shown(self) -> list[stand_ins.Row]:
        """The rows that a plain reader of the sink's folder sees."""
        hidden = (f"{staged.SINK}/_", f"{staged.SINK}/.")
        return [row for path, rows in self.files.items() if not path.startswith(hidden) for row in rows]

    def committed(self) -> list[stand_ins.Row]:
        """The rows of committed units, shown or not."""
        if self.line == "delta":
            return self.rows()
        manifests = [json.loads(v) for k, v in self.objects.items() if k.startswith(f"_manifests/{RUN}/0")]
        names = {file["path"] for manifest in manifests for file in manifest["files"]}
        staged_rows = [row for path, rows in self.files.items() if path.rsplit("/", 1)[1] in names for row in rows]
        return staged_rows or self.rows()

    def events(self, name: str) -> list[dict[str, Any]]:
        found = [json.loads(data) for key, data in sorted(self.objects.items()) if key.startswith(f"events/{RUN}/")]
        return [event for event in found if event["event"] == name]

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Put the stand-ins in their places, for all threads."""
        with pytest.MonkeyPatch.context() as patch:
            stand_ins.put(patch)
            staged.put(patch)
            for module in (claims, heartbeats):
                patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.clock_s, sleep=self._sleep))
                patch.setattr(module, "this_process", lambda: _owner(current().number))
            for name in ("beat", "__enter__", "__exit__"):
                patch.setattr(heartbeats.Heartbeat, name, lambda *_: None)
            patch.setattr(heartbeats, "_start_of", lambda pid: None if self.drivers[pid].gone else "0")
            patch.setattr(batch, "open_store", lambda _: current().store)
            if "proof" in self.broken:
                stand_ins.without_looking(patch)
            if "fence" in self.broken:
                patch.setattr(claims.Claim, "assert_mine", lambda _: None)
            patch.setattr(folding, "fold_quarantine", self._fold_quarantine)
            patch.setattr(folding, "fold_run", self._fold_run)
            yield

    def _sleep(self, seconds: float) -> None:
        """Let time pass: whoever lives and does not stand still beats."""
        self.clock_s += seconds
        for driver in self.drivers:
            if not (driver.gone or driver.still or driver is current()):
                driver.beats += 1
                self.objects[f"heartbeat/{RUN}.json"] = json.dumps([driver.number, driver.beats]).encode()

    def _fold_quarantine(self, *_: object) -> None:
        """A MERGE on `q_id`: one commit, which may be repeated."""
        with current().at("C11"):
            bad = [row for row in self.committed() if row.status == "error"]
            self.quarantine.update({f"{row.run_id}/{row.key}": (row.key, row.value) for row in bad})

    def _fold_run(self, *_: object, **__: object) -> None:
        with current().at("C12"):
            self.tables[RUN, 0] = len(self.events("run_closed"))


class Driver(threading.Thread):
    """A driver of the run on a thread of its own, which moves only when it is told to, from point to point."""

    def __init__(self, world: World, number: int, take_over: bool) -> None:
        super().__init__(daemon=True)
        self.world, self.number, self.take_over = world, number, take_over
        self.session = stand_ins.Session(world)
        self.store: Store = _Store(self, "mem")
        self.go, self.parked = threading.Semaphore(0), threading.Semaphore(0)
        self.killed = self.still = self.gone = False
        self.beats = 0
        self.point: Point | None = None
        self.outcome: Any = None  # the summary, or what ended it

    def run(self) -> None:
        try:
            self._stand(Point("start", "before"))
            pipeline = stand_ins.pipeline(self.world.line)
            self.outcome = batch.run_batch(
                self.session, pipeline, RUN, take_over=self.take_over, heartbeat_s=1.0
            ).summary()
        except SparkscoreError as failure:
            self.outcome = failure
        except Death as death:
            self.outcome = death
        except BaseException as defect:  # boundary: told to the test, which fails
            self.outcome = defect
        self.gone = True
        self.parked.release()

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Stand before and after a write of the protocol."""
        self._stand(Point(name, "before"))
        yield
        self._stand(Point(name, "after"))

    def store_at(self, root: str) -> Store:
        """The store of another place; names are given once over all of them."""
        return _Store(self, root)

    def step(self) -> None:
        """Go on to the next point, or to the end."""
        if not self.gone:
            self.go.release()
            self.parked.acquire()

    def until(self, reached: Callable[[Point], bool]) -> bool:
        """Go on until a point is reached; False when the driver ended before it."""
        while not self.gone:
            self.step()
            if not self.gone and self.point is not None and reached(self.point):
                return True
        return False

    def end(self) -> Any:
        """Go on to the end, and give the outcome."""
        self.until(lambda _: False)
        self.join()
        return self.outcome

    def kill(self) -> None:
        self.killed = True
        self.end()

    def _stand(self, point: Point) -> None:
        if self.killed:
            raise Death
        self.point = point
        self.parked.release()
        self.go.acquire()
        if self.killed:
            raise Death


def current() -> Driver:
    """The driver whose thread this is."""
    driver = threading.current_thread()
    assert isinstance(driver, Driver)
    return driver


class _Store:
    """The driver's way to the store: a dictionary, where a name is given once."""

    def __init__(self, driver: Driver, root: str) -> None:
        self.root = root
        self._driver = driver
        self._objects = driver.world.objects

    def put_if_absent(self, name: str, data: bytes) -> bool:
        with self._driver.at(_point_of(name, data, self._driver.world.units)):
            if name in self._objects and "write-once" not in self._driver.world.broken:
                return False
            self._objects[name] = data
        return True

    def put(self, name: str, data: bytes) -> None:
        self._objects[name] = data

    def get(self, name: str) -> bytes | None:
        return self._objects.get(name)

    def names(self, prefix: str) -> list[str]:
        inside = (name.removeprefix(f"{prefix}/") for name in self._objects if name.startswith(f"{prefix}/"))
        return sorted({name.split("/")[0] for name in inside})


_EVENT_POINTS = {
    "run_published": "C8",
    "run_closed": "C9",
    "quarantine_folded": "C11 event",
    "tables_folded": "C12 event",
}


def _point_of(name: str, data: bytes, units: int) -> str:
    if name.startswith("plans/"):
        return "C1" if name.endswith(".json") else "files of the plan"
    if name.startswith("claims/"):
        return "C2"
    if name.startswith("_manifests/"):
        return _point_of_manifest(name.split("/")[2:], units)
    event = json.loads(data)
    if event["event"] in ("unit_committed", "unit_reused"):  # the proof of the last one makes the run complete
        return "C7" if event["unit_seq"] == units - 1 else "unit event"
    return _EVENT_POINTS.get(event["event"], event["event"])


def _point_of_manifest(parts: list[str], units: int) -> str:
    if parts == ["run.json"]:
        return "C8"
    if len(parts) > 1:
        return "mark"
    return "C6" if int(parts[0].removesuffix(".json")) == units - 1 else "C5"


def _owner(number: int) -> Owner:
    return Owner("host", "boot", number, "0", "ns")
