"""CPU-seconds of a process and all that descend from it: driver, JVM, Spark's Python daemon and its workers."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

REPORTS_ENV = "SPARKSCORE_BENCH_REPORTS"  # folder where workers say what they have used (benchmarks/daemon.py)
SAMPLE_S = 0.02
DISCOVERY_S = 0.2


class TreeMeter:
    """Samples the CPU clock of every live descendant.

    Summing the children's times at the end would lose Spark's workers: the daemon ignores SIGCHLD, so nobody waits for
    them. A process counts with the largest value ever seen of its clock, which runs in nanoseconds and includes threads
    that ended. Workers report their own clock after each task too, in case one dies between two samples.
    """

    def __init__(self, root: int, reports: Path) -> None:
        self._root = root
        self._reports = reports
        self._used_ns: dict[int, int] = {}
        self._live: set[int] = set()
        self._lock = threading.Lock()
        self.ended = 0  # descendants that ended while they were watched
        threading.Thread(target=self._watch, name="tree-meter", daemon=True).start()

    def total_s(self) -> float:
        """Give what the tree has used so far, dead members included."""
        with self._lock:
            self._discover()
            self._sample()
            used = dict(self._used_ns)
        for path in self._reports.glob("*"):
            pid, used_ns = int(path.name), int(path.read_text() or 0)
            used[pid] = max(used.get(pid, 0), used_ns)
        return sum(used.values()) / 1e9

    def _watch(self) -> None:
        discovered = 0.0
        while True:
            with self._lock:
                if time.monotonic() - discovered > DISCOVERY_S:
                    discovered = time.monotonic()
                    self._discover()
                self._sample()
            time.sleep(SAMPLE_S)

    def _sample(self) -> None:
        for pid in list(self._live):
            used_ns = cpu_ns(pid)
            if used_ns is None:
                self._live.discard(pid)
                self.ended += 1
            else:
                self._used_ns[pid] = max(used_ns, self._used_ns.get(pid, 0))

    def _discover(self) -> None:
        parents = {pid: parent for pid in _pids() if (parent := _parent(pid)) is not None}
        # A worker whose daemon died hangs on init: whoever was in the tree once stays in it.
        tree = {self._root, *self._live}
        while more := {pid for pid, parent in parents.items() if parent in tree and pid not in tree}:
            tree |= more
        self._live |= {pid for pid in tree if pid == self._root or pid in parents}


def cpu_ns(pid: int) -> int | None:
    """Read a process's CPU clock (clock_getcpuclockid(3)); None when it has ended."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return None


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - 40 times a second


def _parent(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])
