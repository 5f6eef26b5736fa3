"""A driver that is killed in the middle of its run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["kill_at", "kill_when"]


def kill_at(command: list[str], log: Path, committed: int, within_s: float) -> None:
    """Start the run, and kill its driver once so many units are committed, wherever it is then."""
    kill_when(command, lambda: len(list(log.glob("*.json"))) >= committed, within_s)  # one commit a unit


def kill_when(command: list[str], reached: Callable[[], bool], within_s: float, *, jvm: bool = False) -> None:
    """Start the run, and kill its driver once it has got so far; with its JVM, which else takes back what it was at."""
    quiet = subprocess.DEVNULL
    driver = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=jvm)
    try:
        deadline = time.monotonic() + within_s
        while not reached():
            assert driver.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        (os.killpg if jvm else os.kill)(driver.pid, signal.SIGKILL)
        driver.wait()
