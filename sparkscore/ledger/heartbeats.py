"""Signs of life: a process named for good, the counter that it advances, and the watch that sees it stand still."""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.store import Store

__all__ = ["HEARTBEAT_S", "Heartbeat", "Owner", "Watch", "owner_is_gone", "this_process"]

HEARTBEAT_S = 15.0


@dataclass(frozen=True)
class Owner:
    """A driver process, told apart from another one with the same pid by the time that it started."""

    host: str
    boot_id: str
    pid: int
    pid_start: str
    pid_namespace: str


def this_process() -> Owner:
    """Name this process."""
    pid = os.getpid()
    return Owner(socket.gethostname(), _boot_id(), pid, _start_of(pid) or "", _pid_namespace())


class Heartbeat:
    """A counter in one object; a context manager that advances it every `interval_s`.

    A beat that the store refused is left out: a missed beat shows a dead process, which is the truth about the store.
    """

    def __init__(self, store: Store, name: str, interval_s: float, **fields: Any) -> None:
        self._store, self._name, self._interval_s = store, name, interval_s
        self._fields = {"interval_s": interval_s, **fields}
        self.on_beat: Callable[[], None] = lambda: None
        self._counter = itertools.count()

    def beat(self, **changes: Any) -> None:
        """Advance the counter now, and change the fields that stand beside it."""
        self._fields.update(changes)
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        beat = {**self._fields, "counter": next(self._counter), "at": at}
        self._store.put(self._name, json.dumps(beat).encode())

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="sparkscore-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _go_on(self) -> None:
        while not self._stop.wait(self._interval_s):
            with suppress(SparkscoreError):
                self.beat()
            self.on_beat()


class Watch:
    """Looks at another process's heartbeat, and tells when it is dead.

    It is when it is known to be gone from this machine, and when its counter stood still for two intervals on this
    machine's own clock; clocks of hosts are never compared.
    """

    def __init__(self, store: Store, name: str, owner: Mapping[str, Any], interval_s: float) -> None:
        self._store, self._name, self._owner = store, name, owner
        self._limit_s = 2 * interval_s
        self._seen = store.get(name)
        self._since = time.monotonic()

    def look(self) -> dict[str, Any]:
        """Read the heartbeat as it is now, empty before the first beat."""
        found = self._store.get(self._name)
        if found != self._seen:
            self._seen, self._since = found, time.monotonic()
        beat: dict[str, Any] = json.loads(found or b"{}")
        return beat

    def is_dead(self) -> bool:
        """Judge by the last look."""
        return self.is_gone() or time.monotonic() - self._since >= self._limit_s

    def is_gone(self) -> bool:
        """Tell whether the process is known to be no more."""
        return owner_is_gone(self._owner)


def owner_is_gone(owner: Mapping[str, Any]) -> bool:
    """Tell whether a process, as `Owner` names it, was of this machine and is no more.

    Containers of one machine may share its name and boot id, and see each other's processes under no pid.
    """
    me = asdict(this_process())
    same_machine = all(owner.get(k) == me[k] for k in ("host", "boot_id", "pid_namespace"))
    return same_machine and _start_of(owner["pid"]) != owner["pid_start"]


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux: the pid test alone decides
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return ""


def _start_of(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None if Path("/proc").is_dir() else _alive(pid)
    return None if fields[0] in "ZX" else fields[19]


def _alive(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""
