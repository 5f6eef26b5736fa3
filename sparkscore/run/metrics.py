"""A run's events as a text file for Prometheus, written over and over by its driver, for a node exporter to collect.

The figures are added up from the ledger's events, so a resume goes on where the attempt before it stood.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from sparkscore.ledger.events import CLOSING, read_events
from sparkscore.ledger.fold import committed
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import Store
from sparkscore.scoring.counts import CALL_BOUNDS_S

__all__ = ["FOLDER", "Metrics", "exposition", "metrics_of"]

FOLDER = "SPARKSCORE_METRICS_DIR"  # a place of the machine, not of the pipeline: so not in its file

_EVERY_S = 1.0
_log = logging.getLogger(__name__)

_METRICS = {  # name -> (type, help); the order of the file
    "rows_total": ("counter", "Rows of the newest run, from the committed units."),
    "units_total": ("counter", "Units of the newest run by how they ended; reused ones were committed before."),
    "model_call_seconds": ("histogram", "Seconds of a model call, from the tasks' receipts."),
    "batch_target_rows": ("gauge", "Rows of a model call that are known to fit in memory."),
    "oom_splits_total": ("counter", "Model calls halved for want of memory."),
    "worker_deaths_total": ("counter", "Worker processes that died, guarded ones among them."),
    "heartbeat_timestamp_seconds": ("gauge", "Last beat of the driver; absent when no run is open."),
    "lag_rows": ("gauge", "Rows planned and not committed yet; absent where the plan cannot tell."),
    "balance_ok": ("gauge", "1 while each committed row is accounted for, 0 when the balance is open or unproved."),
    "provider_info": ("gauge", "Execution providers that ran."),
}

Sample = tuple[str, dict[str, str], float]  # suffix of the name, labels beside the pipeline, value


class Metrics:
    """The file of one attempt: takes the attempt's events, and writes at most once a second, and when the run ends.

    What the disk refuses is logged once; no run ends for its metrics.
    """

    def __init__(self, file: Path, plan: Plan, events: Iterable[dict[str, Any]]) -> None:
        self._file = file
        self._plan = plan
        self._events = list(events)
        self._lock = threading.Lock()  # the heartbeat has a thread of its own
        self._written_at = 0.0
        self._refused = False

    def take(self, event: dict[str, Any]) -> None:
        """Add an event of this attempt."""
        with self._lock:
            self._events.append(event)
            if event["event"] in CLOSING or time.monotonic() - self._written_at >= _EVERY_S:
                self._write()

    def beat(self) -> None:
        """Refresh the file at each heartbeat, so that a driver that hangs shows."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        temporary = self._file.with_name(f".{self._file.name}.{uuid.uuid4().hex}")  # a collector reads *.prom alone
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(exposition(self._plan, self._events, time.time()), encoding="utf-8")
            temporary.replace(self._file)
        except Exception:  # boundary: neither a run nor its heartbeat ends for its metrics
            if not self._refused:
                _log.warning("the metrics file %s cannot be written", self._file, exc_info=True)
            self._refused = True
            with suppress(OSError):
                temporary.unlink()
        self._written_at = time.monotonic()


class NoMetrics:
    """Stands in where no folder is set."""

    def take(self, event: dict[str, Any]) -> None:
        """Do nothing."""

    def beat(self) -> None:
        """Do nothing."""


def metrics_of(store: Store, plan: Plan) -> Metrics | NoMetrics:
    """Give the metrics of an attempt that begins now: a file per pipeline in the folder of the environment.

    One file per pipeline, because a collector refuses a series that stands in two files.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return NoMetrics()
    file = Path(folder) / f"sparkscore-{plan.header['pipeline_name']}.prom"
    return Metrics(file, plan, read_events(store, plan.run_id))


def exposition(plan: Plan, events: Sequence[dict[str, Any]], now_s: float) -> str:
    """Write what a run's events add up to in Prometheus' text format.

    Parameters
    ----------
    plan : Plan
    events : sequence of dict
        Of all attempts, in order.
    now_s : float
        Seconds since 1970 of the driver's beat.
    """
    samples = _samples(plan, events, now_s)
    pipeline = plan.header["pipeline_name"]
    lines = []
    for name, (kind, meaning) in _METRICS.items():
        if samples.get(name):
            lines += [f"# HELP sparkscore_{name} {meaning}", f"# TYPE sparkscore_{name} {kind}"]
            lines += [
                _line(f"sparkscore_{name}{suffix}", {"pipeline": pipeline, **labels}, value)
                for suffix, labels, value in samples[name]
            ]
    return "\n".join(lines) + "\n"


def _samples(plan: Plan, events: Sequence[dict[str, Any]], now_s: float) -> dict[str, list[Sample]]:
    units = committed(events)
    rows = {
        "ok": sum(u["ok_rows"] for u in units.values()),
        "quarantined": sum(u["quarantined_rows"] for u in units.values()),
        "filtered": sum(sum((u["filtered_rows"] or {}).values()) for u in units.values()),
    }
    states = {"unit_committed": "committed", "unit_reused": "reused"}
    ended = [states[u["event"]] for u in units.values()]
    failed = {e["unit_seq"] for e in events if e["event"] == "unit_failed"} - set(units)
    planned = plan.header["planned_rows"]
    died = sum(1 for e in events if e["event"] == "worker_died")
    lost = any(e.get("code") in ("SPS-BALANCE", "SPS-LEDGER-GAP") for e in events if e["event"] == "run_failed")
    unproved = any(u["in_rows"] is None for u in units.values())
    is_open = not events or events[-1]["event"] not in (*CLOSING, "tables_folded")
    providers = {p for u in units.values() for p in u["providers"]}
    return {
        "rows_total": [("", {"status": status}, count) for status, count in rows.items()],
        "units_total": [
            *(("", {"state": state}, ended.count(state)) for state in ("committed", "reused")),
            ("", {"state": "failed"}, len(failed)),
        ],
        "model_call_seconds": list(_histogram(units.values())),
        "batch_target_rows": [("", {}, max((u.get("batch_target_rows", 0) for u in units.values()), default=0))],
        "oom_splits_total": [("", {}, _sum(units, "oom_splits"))],
        "worker_deaths_total": [("", {}, died + _sum(units, "guard_deaths"))],
        "heartbeat_timestamp_seconds": [("", {}, now_s)] if is_open else [],
        "lag_rows": [] if planned is None else [("", {}, planned - sum(rows.values()))],
        "balance_ok": [("", {}, int(not (lost or unproved)))],
        "provider_info": [("", {"provider": provider}, 1) for provider in sorted(providers)],
    }


def _sum(units: dict[int, dict[str, Any]], field: str) -> int:
    return sum(u.get(field, 0) for u in units.values())


def _histogram(units: Iterable[dict[str, Any]]) -> Iterator[Sample]:
    """Give cumulative buckets, as the format wants them."""
    found = [u for u in units if u.get("call_buckets")]
    counts = [sum(column) for column in zip(*(u["call_buckets"] for u in found), strict=True)]
    if not counts:
        return
    bounds = [*(f"{bound:g}" for bound in CALL_BOUNDS_S), "+Inf"]
    for bound, count in zip(bounds, accumulate(counts), strict=True):
        yield "_bucket", {"le": bound}, count
    yield "_sum", {}, round(sum(u["model_ms"] for u in found) / 1000, 6)
    yield "_count", {}, sum(counts)


def _line(name: str, labels: dict[str, str], value: float) -> str:
    """Write a sample; a pipeline's name and a provider's hold no character that wants an escape."""
    inside = ",".join(f'{k}="{v}"' for k, v in labels.items())
    return f"{name}{{{inside}}} {value}"
