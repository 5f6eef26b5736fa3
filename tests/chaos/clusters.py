"""Faults of executors, on a local cluster of two: F7, F8, F9, F12."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparkscore.run.result import Run
from tests.chaos.stage import Seen, Stage

__all__ = ["both_killed", "executor_killed", "killed_under_shuffle", "speculation"]

WITHIN_S = 90.0


def executors() -> list[int]:
    """The pids of this process's executors."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                command = (place / "cmdline").read_bytes().split(b"\0")
                environment = (place / "environ").read_bytes()
            except OSError:
                continue
            ours = f"SPARKSCORE_CHAOS_ORDERS={os.environ['SPARKSCORE_CHAOS_ORDERS']}".encode()
            if b"org.apache.spark.executor.CoarseGrainedExecutorBackend" in command and ours in environment:
                found.append(int(place.name))
    return sorted(found)


def _killed(stage: Stage, count: int, **keys: Any) -> Seen:
    """Kill executors in the midst of a unit of slow tasks, of which one has ended."""
    killer = threading.Thread(target=_kill_when, args=(stage, count, 2), daemon=True)

    def disturbed() -> Run:
        killer.start()
        try:
            return stage.run(**keys)
        finally:
            killer.join()

    return _counted(stage, {"sleep_s": 0.4}, disturbed, keys)


def _counted(stage: Stage, orders: dict[str, object], disturbed: Callable[[], Run], keys: dict[str, Any]) -> Seen:
    """Run once under a fault and once without, and compare what the tasks would have counted with what is committed."""
    note = stage.folder / "calls"
    stage.expected()  # before the counting
    _give({**orders, "note": str(note)})
    try:
        run = disturbed()
        counted = _sum(note)
    finally:
        note.unlink(missing_ok=True)
        _give({"note": str(note)})
    stage.balanced(run)
    seen_so_far = stage.seen("ok", "")
    sink = {**keys.get("sink", {"format": "delta"}), "location": str(stage.folder / "quiet")}
    stage.run("quiet", sink=sink)
    _give({})
    more = counted - _sum(note)
    return Seen(seen_so_far.protected, "ok", f"{more:,} rows counted too many", tuple(stage.failures))


def _sum(note: Path) -> int:
    return sum(int(line) for line in note.read_text().split())


def _kill_when(stage: Stage, count: int, receipts: int) -> None:
    deadline = time.monotonic() + WITHIN_S
    folder = stage.folder / "ledger" / "receipts" / "r1"
    while len(list(folder.glob("*/*.json"))) < receipts:
        if time.monotonic() > deadline:
            stage.failures.append("no executor was killed")
            return
        time.sleep(0.02)
    time.sleep(stage.rng.random())
    victims = executors()
    stage.holds(len(victims) >= count, f"{len(victims)} executors found")
    for pid in stage.rng.sample(victims, min(count, len(victims))):
        os.kill(pid, signal.SIGKILL)


def executor_killed(stage: Stage) -> Seen:
    stage.files = 8
    stage.data()
    return _killed(stage, 1)


def both_killed(stage: Stage) -> Seen:
    stage.files = 8
    stage.data()
    return _killed(stage, 2)


def killed_under_shuffle(stage: Stage) -> Seen:
    """Delta's optimised write shuffles the scored rows: a lost executor takes scored rows with it, and they are scored
    again.
    """
    stage.files = 8
    stage.data()
    sink = {"format": "delta", "location": str(stage.sink), "options": {"optimizeWrite": "true"}}
    return _killed(stage, 1, sink=sink)


def speculation(stage: Stage) -> Seen:
    """One executor is slow, and Spark starts its tasks a second time on the other."""
    stage.files = 8
    stage.data()
    return _counted(stage, {"sleep_s": 4.0, "executor": "1"}, stage.run, {})


def _give(orders: dict[str, object]) -> None:
    Path(os.environ["SPARKSCORE_CHAOS_ORDERS"]).write_text(json.dumps(orders))
