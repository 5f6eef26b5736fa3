"""A driver that is killed in the middle of its run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from sparkscore.runtime import files

__all__ = ["kill_at"]


def kill_at(command: list[str], log: str | Path, committed: int, within_s: float) -> None:
    """Start the run, and kill its driver once so many units are committed, wherever it is then."""
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + within_s
        while sum(file.uri.endswith(".json") for file in files.list_files(str(log))) < committed:  # one a unit
            assert driver.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
