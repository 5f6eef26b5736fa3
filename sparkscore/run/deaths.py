"""Evidence of dead workers, told: as events of the run, and in the message of a failure that a death caused."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.events import EventLog, read_events
from sparkscore.ledger.store import Store
from sparkscore.spark.evidence import harvest_everywhere
from sparkscore.spark.sessions import elsewhere
from sparkscore.spark.standstill import STILL

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Deaths"]

_log = logging.getLogger(__name__)

_HARVEST_TIMEOUT_S = 60.0
# Of an evidence object, what an event repeats. Text of faulthandler and the figures stay in the object.
_TOLD: tuple[str, ...] = (
    "evidence",
    "error_class",
    "phase",
    "unit_seq",
    "partition",
    "task_attempt",
    "task_attempt_id",
    "host",
    "pid",
)
_TOLD += ("batch_seq", "batch_rows", "first_pointer", "last_pointer")
_CAUSES = {
    "P4": ("native code failed", "Look at fault_text there; check the model's libraries and custom operators."),
    "P5": (
        "memory ran out",
        "Give the executors more spark.executor.memoryOverhead, or make model.batch_size smaller; then start the same "
        "run id again.",
    ),
    "P6": (
        "killed from outside, or ended by itself, with no sign of a fault or of want of memory",
        "Start the same run id again; if it dies on the same rows, score them with on_error.guard: always.",
    ),
    "P8": (
        "a model call did not come back",
        "Look at fault_text there for where it hung; start the same run id again, with on_error.guard: always.",
    ),
}


class Deaths:
    """The dead workers of one run.

    Parameters
    ----------
    store : Store
    events : EventLog
        Of the attempt that tells them.
    """

    def __init__(self, store: Store, events: EventLog) -> None:
        self._store = store
        self._events = events
        self._folder = f"evidence/{events.run_id}"
        self._told: set[str] | None = None

    def tell(self) -> None:
        """Write an event for each death of which there is none, oldest worker first."""
        names = [f"{self._folder}/{name}" for name in self._names()]
        if not names:
            return
        if self._told is None:
            before = read_events(self._store, self._events.run_id)
            self._told = {event["evidence"] for event in before if event["event"] == "worker_died"}
        new = [found for name in names if name not in self._told and (found := self._evidence(name))]
        for found in sorted(new, key=lambda found: found["started_at"]):
            self._told.add(found["evidence"])
            self._events.write("worker_died", **{key: found[key] for key in _TOLD})

    def explained(self, spark: SparkSession, failure: SparkscoreError) -> SparkscoreError:
        """Give a failure for a dead worker with what that worker was doing, on which rows' addresses, and why it died.

        Spark says of every death the same. So the crumbs that no task has harvested are looked for first.
        """
        if failure.code != "SPS-CLUSTER-WORKER":
            return failure
        try:
            elsewhere(lambda: harvest_everywhere(spark, self._store.root), _HARVEST_TIMEOUT_S)
            self.tell()
            found = self._of(failure)
        except Exception:  # boundary: the run's own failure is the one to tell
            _log.warning("no evidence of the dead worker could be had", exc_info=True)
            return failure
        if found is None:
            return failure
        why, fix = _CAUSES[found["error_class"]]
        message = f"{failure.message} It died {_doing(found)} ({found['error_class']}: {why})."
        return error(failure.code, message, fix, **{**failure.context, "evidence": found["evidence"]})

    def _of(self, failure: SparkscoreError) -> dict[str, Any] | None:
        """The death that Spark names by the id of its task, else the newest of the unit, of this attempt."""
        names = self._names()
        all_found = [found for name in names if (found := self._evidence(f"{self._folder}/{name}"))]
        ours = [found for found in all_found if found["attempt"] == self._events.attempt]
        named = re.search(r"\bTID (\d+)\b", str(failure.__cause__ or failure))
        if named is not None:
            same = [found for found in ours if found["task_attempt_id"] == int(named.group(1))]
            ours = same or ours
        return max(ours, key=lambda found: found["started_at"], default=None)

    def _names(self) -> list[str]:
        return [name for name in self._store.names(self._folder) if not name.startswith(STILL)]

    def _evidence(self, name: str) -> dict[str, Any] | None:
        """Read one object; None while it is being written."""
        try:
            found: dict[str, Any] = json.loads(self._store.get(name) or b"")
        except ValueError:
            return None
        return {**found, "evidence": name}


def _doing(found: dict[str, Any]) -> str:
    rows = ""
    if found["batch_seq"]:
        rows = f" of batch {found['batch_seq']}, {found['batch_rows']} rows"
    if found["first_pointer"]:
        rows += f" from {found['first_pointer']} to {found['last_pointer']}"
    doing = {"load": "while it loaded the model", "infer": "in a model call"}.get(
        found["phase"], f"in {found['phase']}"
    )
    return f"{doing}{rows}, as process {found['pid']} on {found['host']}"
