"""The events of an attempt: write-once JSON objects that are the truth about a run, and its log lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sparkscore.errors import error
from sparkscore.ledger.store import Store

__all__ = ["CLOSING", "EventLog", "attempts", "claim_name", "opening_events", "read_claim", "read_events"]

# An attempt that wrote one of these is over and blocks nobody.
CLOSING = frozenset({"run_closed", "run_stopped", "run_failed", "run_fenced", "run_discarded"})

# What happens to a run once, whichever attempt writes it down: its id is the same for each, so readers take one.
_ONCE = frozenset({"run_planned", "run_published", "quarantine_folded", "run_closed", "tables_folded", "run_discarded"})

_log = logging.getLogger(__name__)

Listener = Callable[[dict[str, Any]], None]


class EventLog:
    """Appends the events of one attempt, numbered from 0.

    Parameters
    ----------
    store : Store
    run_id : str
    attempt : int
        The claim's number; nobody else writes into this attempt's folder. 0: what happened before there was a claim.
    listener : callable, optional
        Receives each event after it is written.
    """

    def __init__(self, store: Store, run_id: str, attempt: int, listener: Listener = lambda event: None) -> None:
        self._store = store
        self._listener = listener
        self.run_id = run_id
        self.attempt = attempt
        there = store.names(_folder(run_id, attempt))
        self._next = int(there[-1].removesuffix(".json")) + 1 if there else 0

    def write(self, event: str, **fields: Any) -> dict[str, Any]:
        """Write one event durably and log it.

        Its number is spent before it is written: a signal may end the write after the store took it, and the event that
        says so needs another.
        """
        number = self._next
        self._next += 1
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        base = {"event": event, "event_id": self._id(event, number), "at": at}
        record = {**base, "run_id": self.run_id, "attempt": self.attempt, **fields}
        data = json.dumps(record, default=str).encode()
        if not self._store.put_if_absent(f"{_folder(self.run_id, self.attempt)}/{number:06d}.json", data):
            raise error(
                "SPS-FENCED",
                f"Expected to be the only writer of attempt {self.attempt}. Got an event number that is taken.",
                "Let the other driver go on; this one stops.",
                run=self.run_id,
            )
        _log.info("%s run=%s attempt=%d %s", event, self.run_id, self.attempt, _short(fields))
        self._listener(record)
        return record

    def _id(self, event: str, number: int) -> str:
        """Name an event by what it is, not by when it was written: what is emitted twice is told apart from news."""
        return f"{self.run_id}/{event}" if event in _ONCE else f"{self.run_id}/{self.attempt}/{number}"


def attempts(store: Store, run_id: str) -> list[int]:
    """List the numbers of the claims of a run, ascending.

    Claims have no gaps, so those after the last one listed are asked for by name: a listing may be stale.
    """
    numbers = sorted(int(name.removesuffix(".json")) for name in store.names(f"claims/{run_id}"))
    following = (numbers or [0])[-1] + 1
    while store.get(claim_name(run_id, following)) is not None:
        numbers.append(following)
        following += 1
    return numbers


def claim_name(run_id: str, attempt: int) -> str:
    """Name the object that claims an attempt."""
    return f"claims/{run_id}/{attempt:06d}.json"


def read_claim(store: Store, run_id: str, attempt: int) -> dict[str, Any]:
    """Read who claimed an attempt, and when; empty when nobody did."""
    found: dict[str, Any] = json.loads(store.get(claim_name(run_id, attempt)) or b"{}")
    return found


def read_events(store: Store, run_id: str, attempt: int | None = None) -> list[dict[str, Any]]:
    """Read the events of one attempt, or of all of them, in the order in which they were written."""
    numbers = attempts(store, run_id) if attempt is None else [attempt]
    found = []
    for number in numbers:
        for name in store.names(_folder(run_id, number)):
            data = store.get(f"{_folder(run_id, number)}/{name}")
            if data is not None:
                found.append(json.loads(data))
    return found


def opening_events(store: Store, run_id: str) -> list[dict[str, Any]]:
    """Read the first event of each attempt: who ran it, with what, and where its bad rows go."""
    names = (f"{_folder(run_id, number)}/000000.json" for number in attempts(store, run_id))
    return [json.loads(data) for name in names if (data := store.get(name)) is not None]


def _folder(run_id: str, attempt: int) -> str:
    return f"events/{run_id}/{attempt:06d}"


def _short(fields: dict[str, Any]) -> str:
    """Write the plain fields as key=value; a text with a space in it is quoted, as log readers want it."""
    shown = {k: v for k, v in fields.items() if isinstance(v, (str, int, float))}
    return " ".join(f"{k}={json.dumps(v) if isinstance(v, str) and ' ' in v else v}" for k, v in shown.items())
