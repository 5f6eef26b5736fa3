"""Faults of executors, on a local cluster of two: F7, F8, F9, F12."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

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


def _killed(stage: Stage, count: int, receipts: int, **keys: object) -> Seen:
    """Kill executors once so many receipts of a unit are there, while slow tasks run."""
    _orders({"sleep_s": 0.4})
    killer = threading.Thread(target=_kill_when, args=(stage, count, receipts), daemon=True)
    killer.start()
    try:
        run = stage.run(**keys)
    finally:
        _orders({})
        killer.join()
    stage.balanced(run)
    planned = run.summary().planned_rows or 0
    counted = sum(json.loads(p.read_text())["rows_in"] for p in (stage.folder / "ledger" / "receipts").rglob("*.json"))
    return stage.seen("ok", f"{counted:,} rows counted of {planned:,}")


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
    seen = _killed(stage, 1, 2)
    return Seen(seen.protected, seen.ended, "the job fails, no row", seen.failures)


def both_killed(stage: Stage) -> Seen:
    stage.files = 8
    stage.data()
    seen = _killed(stage, 2, 2)
    return Seen(seen.protected, seen.ended, "the job fails, no row", seen.failures)


def killed_under_shuffle(stage: Stage) -> Seen:
    """Delta's optimised write shuffles the scored rows: a lost executor takes scored rows with it, and they are scored
    again.
    """
    stage.files = 8
    stage.data()
    sink = {"format": "delta", "location": str(stage.sink), "options": {"optimizeWrite": "true"}}
    return _killed(stage, 1, 3, sink=sink)


def speculation(stage: Stage) -> Seen:
    """One executor is slow, and Spark starts its tasks a second time on the other."""
    stage.files = 8
    stage.data()
    _orders({"sleep_s": 6.0, "executor": "1"})
    try:
        run = stage.run()
    finally:
        _orders({})
    stage.balanced(run)
    receipts = [json.loads(p.read_text()) for p in (stage.folder / "ledger" / "receipts").rglob("*.json")]
    counted = sum(receipt["rows_in"] for receipt in receipts)
    return stage.seen("ok", f"{counted:,} rows counted of {run.summary().planned_rows or 0:,}")


def _orders(orders: dict[str, object]) -> None:
    Path(os.environ["SPARKSCORE_CHAOS_ORDERS"]).write_text(json.dumps(orders))
