"""A unit that stands still: the task that finishes no batch says so in the ledger, and the driver, who looks, ends it.

Only a task knows that it waits: Spark's own figures come with a lag of tens of kilobytes, which small rows take long to
fill. Only the driver can end it: a JVM that reads a damaged page in an endless loop hears of no worker's death.

Workers import this module: it imports pyspark and floors 0 and 1 only.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime import files
from sparkscore.runtime.crumbs import Crumb, Evidence
from sparkscore.runtime.watchdog import Watch, watchdog
from sparkscore.spark.evidence import UnitContext

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["STILL", "ended_when_still", "tells_standstill"]

_log = logging.getLogger(__name__)

STILL = "still-"  # how the names of these objects begin, beside those of dead workers
_LOOKS = 10  # of the driver, within the time that a task may stand still
_LEAST_LOOK_S, _JOIN_S = 0.5, 30.0
_NAMED = 3  # files of the unit


@contextmanager
def tells_standstill(
    unit: UnitContext, partition: int, crumb: Crumb | None, limit_s: float | None
) -> Iterator[Callable[[], None]]:
    """In a task: give what is to be called after each batch, and write an object once it was not for `limit_s`."""
    if limit_s is None:
        yield lambda: None
        return

    def tell() -> None:  # on a thread of its own: the watchdog's has calls to watch
        threading.Thread(target=_tell, args=(unit, partition, crumb), name="sparkscore-still", daemon=True).start()

    watch = watchdog().start(Watch(tell), limit_s)

    def moved() -> None:
        watch.deadline = time.monotonic() + limit_s

    try:
        yield moved
    finally:
        watchdog().stop(watch)


def _tell(unit: UnitContext, partition: int, crumb: Crumb | None) -> None:
    try:
        found = {"unit_seq": unit.unit_seq, "attempt": unit.attempt, "partition": partition, "error_class": "P8"}
        found |= (crumb.evidence() if crumb else None) or {}
        name = f"{_prefix(unit)}{partition}.json"
        files.write_bytes(f"{unit.ledger}/evidence/{unit.run_id}/{name}", json.dumps(found).encode())
    except Exception:  # boundary: told or not, the task goes on as it does
        _log.warning("a standstill could not be told", exc_info=True)


def _prefix(unit: UnitContext) -> str:
    return f"{STILL}{unit.unit_seq}-{unit.attempt}-"


@contextmanager
def ended_when_still(
    spark: SparkSession,
    unit: UnitContext,
    paths: Sequence[str],
    limit_s: float | None,
    names: Callable[[], list[str]],
) -> Iterator[None]:
    """In the driver: cancel the session's jobs once a task of the unit has told that it stands still.

    A tag would leave other runs of the session alone, but a classic session knows a thread's tags in that thread only.

    Parameters
    ----------
    spark : SparkSession
    unit : UnitContext
    paths : sequence of str
        Of its files, to name some.
    limit_s : float or None
        None for never.
    names : callable
        Lists the run's evidence.

    Raises
    ------
    ClusterError
        ``SPS-CLUSTER-STALLED``. Cores may be held by tasks that cannot be ended: who catches it starts no Spark job.
    """
    if limit_s is None or not hasattr(spark, "interruptAll"):  # Spark 4.0 has it
        yield
        return
    lookout = _Lookout(spark.interruptAll, _prefix(unit), names, max(_LEAST_LOOK_S, limit_s / _LOOKS))
    lookout.start()
    try:
        yield
    except Exception as cause:  # boundary: whatever a cancelled job ends with
        if lookout.told is None:
            raise
        raise _stalled(unit, paths, lookout.told, limit_s) from cause
    finally:
        lookout.over.set()
        lookout.join(_JOIN_S)  # a late cancel would hit the next unit


class _Lookout(threading.Thread):
    """Looks for objects of a name until it is over, and cancels when it has `told` the first."""

    def __init__(
        self, cancel: Callable[[], object], prefix: str, names: Callable[[], list[str]], every_s: float
    ) -> None:
        super().__init__(name="sparkscore-still", daemon=True)
        self._cancel, self._prefix, self._names, self._every_s = cancel, prefix, names, every_s
        self.over = threading.Event()
        self.told: str | None = None

    def run(self) -> None:
        while self.told is None and not self.over.wait(self._every_s):
            try:
                self.told = next((name for name in self._names() if name.startswith(self._prefix)), None)
                if self.told is not None:
                    self._cancel()
            except Exception:  # boundary: a ledger that does not answer is asked again; a run is not ended over it
                _log.warning("the driver could not look for a standstill", exc_info=True)


def _stalled(unit: UnitContext, paths: Sequence[str], name: str, limit_s: float) -> SparkscoreError:
    path = f"evidence/{unit.run_id}/{name}"
    try:
        found: Evidence = json.loads(files.read_bytes(f"{unit.ledger}/{path}"))
    except (SparkscoreError, OSError, ValueError):
        found = {}
    where = f" It waits in {found['phase']}" if found.get("phase") else " It waits"
    where += f", after row {found['last_pointer']}" if found.get("last_pointer") else ", and has had no batch yet"
    return error(
        "SPS-CLUSTER-STALLED",
        f"Expected a batch of each task within {limit_s:g} s. Got none from partition "
        f"{name.rpartition('-')[2].removesuffix('.json')} of unit {unit.unit_seq}{_named(paths)}.{where}"
        + (f" (process {found['pid']} on {found['host']})." if found.get("pid") else "."),
        "Look at the thread dump of its executor in Spark's UI: Parquet readers in a loop mean a damaged file, sockets "
        "a storage that hangs; spark.task.reaper.enabled: true ends executors whose tasks cannot be. Raise "
        "on_error.no_progress_s where a batch may take so long. Then start the same run id again.",
        evidence=path,
        unit=unit.unit_seq,
    )


def _named(paths: Sequence[str]) -> str:
    shown = ", ".join(path.rpartition("/")[2] for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f" ({shown}{more})" if shown else ""
