"""CPU-seconds and memory of a process tree, from /proc: Spark's daemon reaps its workers silently, so getrusage misses them."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class _Stat(NamedTuple):
    parent: int
    started: str  # in ticks; with the pid, the name of a process
    cpu_s: float
    command: str


class Tree:
    """Samples a process and all its descendants; what a process had used when it was last seen counts.

    Between `start` and `stop` it samples every 100 ms, which can miss the last 100 ms of a process that dies; workers are
    reused, so few do. The sampling is part of what it measures (some ms a second), the same for every arm.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[tuple[int, str], float] = {}
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None

    def start(self) -> None:
        """Begin the sampling, if it has not begun."""
        if self._stop is None:
            self._stop = threading.Event()
            threading.Thread(target=self._watch, args=(self._stop,), daemon=True).start()

    def cpu_s(self) -> float:
        """CPU-seconds that the tree has used up to now."""
        self._sample()
        with self._lock:
            return sum(self._seen.values())

    def pss_mb(self) -> dict[str, float]:
        """Proportional set size in MB of the live processes: the root, JVMs, and the others. A shared page counts once."""
        mb = {"driver_mb": 0.0, "java_mb": 0.0, "workers_mb": 0.0}
        for pid, stat in self._members().items():
            kind = "driver_mb" if pid == self._root else "java_mb" if stat.command == "java" else "workers_mb"
            mb[kind] += pss_mb(pid)
        return mb

    def stop(self) -> None:
        """End the sampling."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(0.1):
            self._sample()

    def _sample(self) -> None:
        found = {(pid, stat.started): stat.cpu_s for pid, stat in self._members().items()}
        with self._lock:
            self._seen |= found

    def _members(self) -> dict[int, _Stat]:
        stats = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None}
        return {pid: stat for pid, stat in stats.items() if self._descends(pid, stats)}

    def _descends(self, pid: int, stats: dict[int, _Stat]) -> bool:
        while pid in stats:
            if pid == self._root:
                return True
            pid = stats[pid].parent
        return False


def adopt_orphans() -> None:
    """Keep every process that begins below this one below it: daemons such as Ray's leave their parents."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def busy_s() -> float:
    """CPU-seconds that the machine has been busy since it started, all processes and the kernel together."""
    user, nice, system, _, _, irq, softirq = (int(t) for t in Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) * _TICK_S


def _pids() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def _stat(pid: int) -> _Stat | None:
    try:
        head, tail = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)
    except OSError:
        return None
    fields = tail.split()
    return _Stat(int(fields[1]), fields[19], (int(fields[11]) + int(fields[12])) * _TICK_S, head.split("(", 1)[1])


def pss_mb(pid: int) -> float:
    """Give the proportional set size of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
