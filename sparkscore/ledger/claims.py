"""Who runs a run: a numbered claim is the fence, and a counting heartbeat says whether its owner is alive."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sparkscore.errors import ClusterError, SparkscoreError
from sparkscore.ledger.events import CLOSING, attempts, claim_name, read_claim, read_events
from sparkscore.ledger.store import Store

__all__ = ["HEARTBEAT_S", "Claim", "Owner", "claim_run", "heartbeat_name", "owner_is_gone", "this_process"]

HEARTBEAT_S = 15.0


@dataclass(frozen=True)
class Owner:
    """A driver process, told apart from another one with the same pid by the time that it started."""

    host: str
    boot_id: str
    pid: int
    pid_start: str
    pid_namespace: str


class Claim:
    """One attempt's claim on a run, with its heartbeat; a context manager that stops the heartbeat at its end."""

    def __init__(self, store: Store, run_id: str, attempt: int, interval_s: float = HEARTBEAT_S) -> None:
        self._store = store
        self.run_id = run_id
        self.attempt = attempt
        self.on_beat: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(interval_s,), name="sparkscore-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def assert_mine(self) -> None:
        """Stop with `SPS-FENCED` when a later attempt has claimed the run."""
        newest = attempts(self._store, self.run_id)[-1]
        if newest > self.attempt:
            raise _fenced(f"attempt {self.attempt} to be the newest", f"attempt {newest}", self.run_id)

    def _beat(self, interval_s: float) -> None:
        counter = 0
        while True:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            beat = {"attempt": self.attempt, "counter": counter, "interval_s": interval_s, "at": at}
            with suppress(SparkscoreError):  # a missed beat shows a dead run, which is the truth about the store
                self._store.put(heartbeat_name(self.run_id), json.dumps(beat).encode())
            self.on_beat()
            counter += 1
            if self._stop.wait(interval_s):
                return


def claim_run(
    store: Store, run_id: str, *, take_over: bool = False, interval_s: float = HEARTBEAT_S, say: Callable[[str], None]
) -> Claim:
    """Claim a run as its next attempt, unless a live driver owns it.

    An open attempt of a dead process of this machine is passed at once. Any other open attempt is watched for two
    heartbeats on this machine's own clock; clocks of hosts are never compared.

    Parameters
    ----------
    store : Store
    run_id : str
    take_over : bool
        Do not watch: the caller knows that the other driver is gone. If it is not, it ends FENCED.
    interval_s : float
        Seconds between heartbeats.
    say : callable
        Receives one line for a person while the function waits.

    Raises
    ------
    ClusterError
        `SPS-FENCED` when the heartbeat of the open attempt moves, or another starter takes the same number.
    """
    numbers = attempts(store, run_id)
    if numbers and not take_over:
        _assert_dead(store, run_id, numbers[-1], interval_s, say)
    attempt = (numbers[-1] if numbers else 0) + 1
    at = datetime.now(UTC).isoformat()
    body = {"run_id": run_id, "attempt": attempt, "claimed_at": at, "interval_s": interval_s, **asdict(this_process())}
    if not store.put_if_absent(claim_name(run_id, attempt), json.dumps(body).encode()):
        raise _fenced(f"attempt {attempt} to be free", "a claim of another driver", run_id)
    return Claim(store, run_id, attempt, interval_s)


def this_process() -> Owner:
    """Name this process."""
    pid = os.getpid()
    return Owner(socket.gethostname(), _boot_id(), pid, _start_of(pid) or "", _pid_namespace())


def owner_is_gone(claim: dict[str, Any]) -> bool:
    """Tell whether the process that claimed an attempt is known to be dead: it was one of this machine."""
    me = asdict(this_process())
    # Containers of one machine may share its name and boot id, and see each other's processes under no pid.
    same_machine = all(claim.get(k) == me[k] for k in ("host", "boot_id", "pid_namespace"))
    return same_machine and _start_of(claim["pid"]) != claim["pid_start"]


def _assert_dead(store: Store, run_id: str, attempt: int, interval_s: float, say: Callable[[str], None]) -> None:
    if any(e["event"] in CLOSING for e in read_events(store, run_id, attempt)):
        return
    claim = read_claim(store, run_id, attempt)
    if owner_is_gone(claim):
        return
    say(f"attempt {attempt} of {run_id} did not close; watching its heartbeat for {2 * interval_s:.0f} s")
    before = store.get(heartbeat_name(run_id))
    deadline = time.monotonic() + 2 * interval_s
    while time.monotonic() < deadline:
        time.sleep(min(1.0, interval_s / 10))
        if store.get(heartbeat_name(run_id)) != before:
            who = f"a live driver: pid {claim.get('pid')} on {claim.get('host')}"
            raise _fenced(f"run {run_id} to be free", who, run_id)


def _fenced(expected: str, got: str, run_id: str) -> SparkscoreError:
    return ClusterError(
        "SPS-FENCED",
        f"Expected {expected}. Got {got}.",
        "Wait for the other driver, or stop it; then start the same run id again, which resumes.",
        run=run_id,
    )


def heartbeat_name(run_id: str) -> str:
    """Name the object that a run's driver writes again and again."""
    return f"heartbeat/{run_id}.json"


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
