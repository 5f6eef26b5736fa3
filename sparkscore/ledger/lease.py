"""The lease of a table: a queue of numbered tickets, so that those who write one table commit one after another."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Literal

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.heartbeats import HEARTBEAT_S, Heartbeat, Watch, this_process
from sparkscore.ledger.store import Store

__all__ = ["Lease"]

_log = logging.getLogger(__name__)

# What a ticket's heartbeat says of it. "done": it was held, so whatever came before it is over, too. "left": it was
# given up before its turn, which says nothing of those before it.
_State = Literal["waiting", "held", "done", "left"]
_FOLDER = "_lease"  # Delta and its VACUUM leave folders alone whose names begin with an underscore
_POLL_S = 0.2


class Lease:
    """One writer's place in the queue of a table.

    Parameters
    ----------
    store : Store
        The table's folder. In it, ``_lease/<n>.json`` are the tickets, given once and in order;
        ``_lease/beat/<n>.json`` is the heartbeat of a ticket, which beats while it waits or is held.
    timeout_s : float
        How long one and the same ticket may be waited for.
    run_id : str, optional
        The run that writes. A ticket of the same run is an earlier attempt's, which has been passed over by a claim.
    interval_s : float
        Seconds between heartbeats. The ticket of a writer that died is passed at once on its own machine, elsewhere
        after two of them.

    Notes
    -----
    Correct where a read sees what was written before it, as on disks, S3 and HDFS. A writer takes a new ticket and
    waits until each one before it is over. One whose ticket is the last goes on with it: it says "held", and then
    looks for a later ticket. The later one is made first, and then looks at what is before it. So at least one of two
    sees the other; the one with the earlier ticket gives way.

    A holder that stood still for two heartbeats is passed, and may wake up and commit beside its successor. That is
    what the proof of each commit is for (docs/decisions/0013).
    """

    def __init__(
        self, store: Store, *, timeout_s: float, run_id: str | None = None, interval_s: float = HEARTBEAT_S
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._timeout_s = timeout_s
        self._interval_s = interval_s
        self._ticket = 0
        self._heart: Heartbeat

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the table, and keep others of us from it inside the block.

        Raises
        ------
        ClusterError
            `SPS-CLUSTER-LEASE` when a live writer kept it for `timeout_s`.
        """
        waits = not self._goes_on()
        while True:
            if waits:
                self._ticket = self._new_ticket()
            last: _State = "left"
            try:
                with self._heart:
                    if not waits or self._has_its_turn():
                        last = "done"
                        yield
                        return
            finally:
                self._say(last)
                self._ticket = self._ticket if last == "done" else 0

    def _goes_on(self) -> bool:
        """Take the table again with the ticket of the last time, if nobody has come since."""
        if not self._ticket:
            return False
        self._heart.beat(state="held")
        if self._store.get(_ticket(self._ticket + 1)) is None:
            return True
        self._say("done")
        return False

    def _new_ticket(self) -> int:
        try:
            listed = (name.removesuffix(".json") for name in self._store.names(_FOLDER))
            number = max((int(name) for name in listed if name.isdigit()), default=0) + 1
            mine = json.dumps({**asdict(this_process()), "run_id": self._run_id}).encode()
            while not self._store.put_if_absent(_ticket(number), mine):
                number += 1
            self._heart = Heartbeat(self._store, _beat(number), self._interval_s, state="waiting")
            self._heart.beat()
        except SparkscoreError as refusal:
            raise self._no_place(refusal) from refusal
        return number

    def _has_its_turn(self) -> bool:
        """Wait for the tickets before; False when a later one went on meanwhile, since this process stood still."""
        for number in range(self._ticket - 1, 0, -1):
            if self._over(number):
                break
        self._heart.beat(state="held")
        later = self._ticket + 1
        while beat := self._store.get(_beat(later)):
            if json.loads(beat)["state"] in ("held", "done"):
                return False
            later += 1
        return True

    def _over(self, number: int) -> bool:
        """Wait until a ticket is no hindrance; tell whether those before it are none either."""
        owner: dict[str, Any] = json.loads(self._store.get(_ticket(number)) or b"{}")
        watch = Watch(self._store, _beat(number), owner, self._interval_s)
        is_ours = self._run_id is not None and owner.get("run_id") == self._run_id
        began = time.monotonic()
        told = False
        while True:
            state = watch.look().get("state", "waiting")
            if state in ("done", "left") or is_ours or watch.is_dead():
                return state in ("done", "held")
            waited_s = time.monotonic() - began
            if waited_s > self._timeout_s:
                raise self._busy(owner)
            if not told and waited_s > self._interval_s / 3:
                _log.warning("waiting for pid %s on %s, which writes %s", *_who(owner), self._store.root)
                told = True
            time.sleep(min(_POLL_S, self._interval_s / 10))

    def _say(self, state: _State) -> None:
        """Change the ticket's state; where the store refuses it, the heartbeat stands still and is passed."""
        with suppress(SparkscoreError):
            self._heart.beat(state=state)

    def _busy(self, owner: dict[str, Any]) -> SparkscoreError:
        pid, host = _who(owner)
        return error(
            "SPS-CLUSTER-LEASE",
            f"Expected the lease of {self._store.root} within {self._timeout_s:g} s. "
            f"Got a live writer that keeps it: pid {pid} on {host}.",
            "Start the same run id again when that run is done, or set SPARKSCORE_LEASE_TIMEOUT_S higher.",
        )

    def _no_place(self, refusal: SparkscoreError) -> SparkscoreError:
        """Tell a refusal of the table's store in words of the table; a store that gives no answer is told as it is."""
        if refusal.code not in ("SPS-ENV-LEDGER", "SPS-ENV-ACCESS"):
            return refusal
        return error(
            "SPS-ENV-SINK",
            f"Expected a table whose writers can take turns, in the folder {_FOLDER} of {self._store.root}. "
            f"Got: {refusal.message}",
            "Give this user the permission to list, read and write there, on a disk with hard links or on a store "
            "with conditional writes.",
        )


def _ticket(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.json"


def _beat(number: int) -> str:
    return f"{_FOLDER}/beat/{number:08d}.json"


def _who(owner: dict[str, Any]) -> tuple[Any, Any]:
    return owner.get("pid", "?"), owner.get("host", "?")
