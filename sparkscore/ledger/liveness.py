"""The dead-man rule: whether the driver of an open attempt still lives, told from the ledger alone."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sparkscore.ledger.claims import heartbeat_name
from sparkscore.ledger.events import CLOSING, claim_name, read_claim, read_events
from sparkscore.ledger.heartbeats import HEARTBEAT_S, owner_is_gone
from sparkscore.ledger.store import Store
from sparkscore.runtime import files

__all__ = ["MISSED_BEATS", "Sign", "last_sign"]

MISSED_BEATS = 2


@dataclass(frozen=True)
class Sign:
    """The last sign of life of an attempt, and why its driver counts as dead; empty while it lives."""

    at: datetime
    why: str

    @property
    def is_dead(self) -> bool:
        """Whether the attempt is red."""
        return bool(self.why)


def last_sign(store: Store, run_id: str, attempt: int) -> Sign:
    """Find the last sign of life of an attempt that did not close.

    Notes
    -----
    A starter compares no clocks: it watches whether the heartbeat moves (`claim_run`). A reader wants an answer at
    once, so it compares the time at which the store took the last beat with its own clock; the driver's clock has no
    part in it where the store tells times. A beat from the future counts as fresh: a wrong clock alone calls no run
    dead. On the driver's own machine a process that is gone is known without any clock.
    """
    name = heartbeat_name(run_id)
    beat: dict[str, Any] = json.loads(store.get(name) or b"{}")
    claim = read_claim(store, run_id, attempt)
    if beat.get("attempt") != attempt:  # it claimed the run, and had no beat yet
        name, beat = claim_name(run_id, attempt), {**claim, "at": claim["claimed_at"]}
    at = _written_at(f"{store.root.rstrip('/')}/{name}") or datetime.fromisoformat(beat["at"])
    if owner_is_gone(claim):
        why = f"is gone: no process {claim['pid']} on {claim['host']}"
    elif time.time() - at.timestamp() > MISSED_BEATS * float(beat.get("interval_s", HEARTBEAT_S)):
        why = f"is gone or hangs: no heartbeat since {at.isoformat(timespec='seconds')}"
    else:
        why = ""
    # Looked at last: it may have closed, and gone, since the caller read its events.
    closed = bool(why) and any(e["event"] in CLOSING for e in read_events(store, run_id, attempt))
    return Sign(at, "" if closed else why)


def _written_at(uri: str) -> datetime | None:
    """Give the time at which the store took an object, None where it does not tell."""
    found = files.stat([uri])[0]
    return datetime.fromtimestamp(found.mtime_ns / 1e9, UTC) if found is not None and found.mtime_ns else None
