"""CPU-seconds of a process tree, from /proc: Spark's daemon reaps its workers silently, so getrusage misses them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class TreeCpu:
    """Samples a process and all its descendants; what a process had used when it was last seen counts.

    Sampling every 100 ms can miss the last 100 ms of a process that dies; workers are reused, so few do. The sampling
    is part of what it measures (some ms a second), the same for every arm, and ends with `stop`.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[tuple[int, str], float] = {}
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def total_s(self) -> float:
        """CPU-seconds that the tree has used up to now."""
        self._sample()
        return sum(self._seen.values())

    def stop(self) -> None:
        """End the sampling."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self._sample()

    def _sample(self) -> None:
        stats = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None}
        for pid, (_, start, cpu_s) in stats.items():
            if self._descends(pid, stats):
                self._seen[pid, start] = cpu_s

    def _descends(self, pid: int, stats: dict[int, tuple[int, str, float]]) -> bool:
        while pid in stats:
            if pid == self._root:
                return True
            pid = stats[pid][0]
        return False


def busy_s() -> float:
    """CPU-seconds that the machine has been busy since it started, all processes and the kernel together."""
    user, nice, system, _, _, irq, softirq = (int(t) for t in Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) * _TICK_S


def _pids() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def _stat(pid: int) -> tuple[int, str, float] | None:
    """Parent, start time in ticks, CPU-seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return int(fields[1]), fields[19], (int(fields[11]) + int(fields[12])) * _TICK_S
