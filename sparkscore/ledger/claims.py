"""Who runs a run: a numbered claim is the fence, and a counting heartbeat says whether its owner is alive."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Self

from sparkscore.errors import ClusterError, SparkscoreError
from sparkscore.ledger.events import CLOSING, attempts, claim_name, read_claim, read_events
from sparkscore.ledger.heartbeats import HEARTBEAT_S, Heartbeat, Watch, this_process
from sparkscore.ledger.store import Store

__all__ = ["HEARTBEAT_S", "Claim", "claim_run", "heartbeat_name"]


class Claim:
    """One attempt's claim on a run, with its heartbeat; a context manager that stops the heartbeat at its end."""

    def __init__(self, store: Store, run_id: str, attempt: int, interval_s: float = HEARTBEAT_S) -> None:
        self._store = store
        self.run_id = run_id
        self.attempt = attempt
        self._heart = Heartbeat(store, heartbeat_name(run_id), interval_s, attempt=attempt)

    def __enter__(self) -> Self:
        with suppress(SparkscoreError):
            self._heart.beat()
        self._heart.__enter__()
        return self

    def __exit__(self, *ending: object) -> None:
        self._heart.__exit__(*ending)

    def on_beat(self, call: Callable[[], None]) -> None:
        """Have something done with each heartbeat from now on."""
        self._heart.on_beat = call

    def assert_mine(self) -> None:
        """Stop with `SPS-FENCED` when a later attempt has claimed the run.

        Claims have no gaps, so the next number is asked for by its name: a listing may be stale.
        """
        if self._store.get(claim_name(self.run_id, self.attempt + 1)) is not None:
            raise _fenced(f"attempt {self.attempt} to be the newest", f"attempt {self.attempt + 1}", self.run_id)


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


def _assert_dead(store: Store, run_id: str, attempt: int, interval_s: float, say: Callable[[str], None]) -> None:
    if any(e["event"] in CLOSING for e in read_events(store, run_id, attempt)):
        return
    claim = read_claim(store, run_id, attempt)
    watch = Watch(store, heartbeat_name(run_id), claim, interval_s)
    if watch.is_gone():
        return
    say(f"attempt {attempt} of {run_id} did not close; watching its heartbeat for {2 * interval_s:.0f} s")
    before = watch.look()
    while not watch.is_dead():
        time.sleep(min(1.0, interval_s / 10))
        if watch.look() != before:
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
