"""Faults of the driver, in processes of their own: F10 at every crash point, F11, F22, F25, F27."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Barrier

from sparkscore.errors import SparkscoreError
from tests.chaos.stage import NotHere, Seen, Stage, Tally

__all__ = ["HOWS", "POINTS", "clock_jump", "crash_point", "killed", "killed_in_vacuum", "race", "zombie"]

POINTS = ("C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C11", "C9", "C12", "C10")
HOWS = ("resume", "rerun", "twin")
WITHIN_S = 240.0


def crash_point(stage: Stage, name: str, when: str, how: str) -> Seen:
    """Stop a driver at a point, for good or for a while, and go on in another."""
    stage.data()
    for turn in range(2 if how == "rerun" else 1):
        with _stopped(stage, name, when, signal.SIGSTOP if how == "twin" else signal.SIGKILL) as (stopped, hit):
            if how == "twin":
                stage.balanced(stage.run())
                os.killpg(stopped.pid, signal.SIGCONT)
                code = stopped.wait(WITHIN_S)
                stage.holds(code in (0, 9), f"the driver that woke ended with {code}")
        stage.holds(hit or turn > 0, "the driver ended without coming there")
        if not hit:
            break  # a second attempt does not come to every point again
    if how != "twin":
        stage.balanced(stage.run())
    before = stage.tally()
    stage.holds(stage.run().summary().repeated, "a finished run ran once more")
    stage.holds(stage.tally() == before, "a finished run changed its sink")
    return stage.seen("ok", "-")


def killed(stage: Stage) -> Seen:
    """F10: one crash point of the 24, by the seed."""
    name, when = stage.rng.choice(POINTS), stage.rng.choice(["before", "after"])
    seen = crash_point(stage, name, when, "resume")
    return Seen(seen.protected, f"killed {when} {name}: ok", _again_from_the_start(stage), seen.failures)


def zombie(stage: Stage) -> Seen:
    """F11: it stands still, a successor runs to the end, it wakes and adds nothing."""
    name, when = (("C7", "after"), ("C5", "before"), ("C6", "before"))[stage.seed % 3]
    seen = crash_point(stage, name, when, "twin")
    plain = stage.folder / "plain"
    for _ in range(2):
        stage.plain(plain)
    return Seen(seen.protected, f"stood still {when} {name}: ok", str(stage.plain_tally(plain)), seen.failures)


def race(stage: Stage) -> Seen:
    """F22: two drivers of one run at the same moment, and another run beside them on the same table."""
    stage.data()
    begin = Barrier(3)

    def driven(run_id: str) -> str:
        begin.wait()
        time.sleep(stage.rng.random())
        for _ in range(5):  # each start passes the other driver over
            try:
                stage.run(run_id, take_over=True)
            except SparkscoreError as failure:
                if failure.code not in ("SPS-FENCED", "SPS-CLUSTER-CONFLICT"):
                    return failure.code
            else:
                return "ok"
        return "fenced"

    with ThreadPoolExecutor(3) as threads:
        ended = list(threads.map(driven, ["r1", "r1", "r2"]))
    stage.holds("ok" in ended[:2] and ended[2] == "ok", f"ended {ended}")
    twice = stage.tally()  # two runs of the same rows on one table: each row once a run
    stage.holds(twice == Tally(0, stage.rows, 0), f"over both runs: {twice}")
    stage.spark.sql(f"DELETE FROM delta.`{stage.sink}` WHERE _ss.run_id = 'r2'")
    plain = stage.folder / "plain"
    for _ in range(2):
        stage.plain(plain)
    return stage.seen("ok, each run its rows once", str(stage.plain_tally(plain)))


def clock_jump(stage: Stage) -> Seen:
    """F25: the first driver's clock is an hour off; it dies, and one whose clock is right goes on."""
    if shutil.which("faketime") is None:
        raise NotHere("faketime is not installed")
    stage.data()
    hours = ("+1h", "-1h")[stage.seed % 2]
    with _stopped(stage, "C7", "before", signal.SIGKILL, clock=hours):
        pass
    stage.balanced(stage.run())
    return stage.seen(f"{hours}: ok", _again_from_the_start(stage))


def killed_in_vacuum(stage: Stage) -> Seen:
    """F27: between two attempts, OPTIMIZE and VACUUM of the sink are killed in their midst."""
    stage.data()
    with _stopped(stage, "C6", "before", signal.SIGKILL):
        pass
    there = set(stage.sink.glob("*.parquet"))
    command = _command(stage, "--maintain")
    with _group(command, stage) as keeper:
        _poll(keeper, lambda: bool(set(stage.sink.glob("*.parquet")) - there))
        time.sleep(stage.rng.random() / 2)
        os.killpg(keeper.pid, signal.SIGKILL)
    stage.balanced(stage.run())
    return stage.seen("ok", "-")


def _again_from_the_start(stage: Stage) -> str:
    """Append file by file, stop in between, and begin anew, as a plain job does that was restarted."""
    files, plain = sorted((stage.folder / "in").iterdir()), stage.folder / "plain"
    for path in (*files[: 1 + stage.seed % len(files)], *files):
        stage.plain(plain, path)
    return str(stage.plain_tally(plain))


# -- processes -----------------------------------------------------------------------------------------


@contextmanager
def _stopped(
    stage: Stage, name: str, when: str, signum: int, clock: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], bool]]:
    """Start a driver, and stop it at a point; gives whether it came there. What of it is left at the end is killed."""
    reached = _SEEN_FROM_OUTSIDE.get((name, when))
    inside = () if reached else ("--at", name, "--when", when, "--signal", str(int(signum)))
    with _group([*(("faketime", "-f", clock) if clock else ()), *_command(stage, *inside)], stage) as process:
        hit = _poll(process, lambda: reached is not None and reached(stage))
        if hit and reached is not None:
            os.killpg(process.pid, signum)
        yield process, hit


@contextmanager
def _group(command: list[str], stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with (stage.folder / "driver.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _command(stage: Stage, *more: str) -> list[str]:
    document = stage.folder / "document.json"
    document.write_text(json.dumps(stage.document()))
    return [sys.executable, "-m", "tests.chaos.driver", str(document), "r1", *more]


def _data_files(stage: Stage) -> int:
    return len(list(stage.sink.glob("*.parquet")))


def _entries(stage: Stage) -> int:
    return len(list((stage.sink / "_delta_log").glob("*.json")))


def _receipts(stage: Stage, unit: int) -> int:
    return len(list((stage.folder / "ledger" / "receipts" / "r1" / str(unit)).glob("*.json")))


# What a watcher of the folders sees of the points inside the JVM. Each unit is one file, so one data file.
_SEEN_FROM_OUTSIDE: dict[tuple[str, str], Callable[[Stage], bool]] = {
    ("C3", "before"): lambda stage: bool(list((stage.folder / "ledger" / "events" / "r1").rglob("*.json"))),
    ("C3", "after"): lambda stage: _data_files(stage) >= 1,
    ("C4", "before"): lambda stage: _receipts(stage, 0) >= 1,
    ("C4", "after"): lambda stage: _receipts(stage, 0) >= 1 and _data_files(stage) >= 1,
    ("C5", "before"): lambda stage: (stage.sink / "_delta_log").exists() and _data_files(stage) >= 1,
    ("C5", "after"): lambda stage: _entries(stage) >= 1,
    ("C6", "before"): lambda stage: _data_files(stage) >= 2,
    ("C6", "after"): lambda stage: _entries(stage) >= 2,
}


def _poll(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> bool:
    """Wait for a sight, or for the process to be stopped or killed by itself; False when it ended of itself."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if reached():
            return True
        code = process.poll()
        if code is not None:
            return code == -signal.SIGKILL
        if Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T":
            return True
        time.sleep(0.002)
    raise TimeoutError("a driver came to no point")
