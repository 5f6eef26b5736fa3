"""What writers that died left behind, and the removal of what is provably dead."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sparkscore.ledger.events import CLOSING, attempts, read_events
from sparkscore.ledger.fold import run_ids
from sparkscore.ledger.liveness import last_sign
from sparkscore.ledger.store import Store, open_store
from sparkscore.run.debris import dead_units
from sparkscore.run.doctor.checks import Check, ok, warn
from sparkscore.run.doctor.places import SCRATCH
from sparkscore.run.sink_store import SinkStore
from sparkscore.runtime import files

__all__ = ["Debris", "clean", "debris", "find_debris", "open_runs", "temporary"]

DEAD_AFTER_S = 24 * 3600
_HALF = "a half-written object"
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{32}")


@dataclass(frozen=True)
class Debris:
    """A folder or file that nobody writes to any more, and the files in it."""

    what: str
    place: str
    uris: tuple[str, ...]
    age_s: float

    @property
    def is_dead(self) -> bool:
        """Whether its newest file is old enough that no writer can be at work on it."""
        return self.age_s > DEAD_AFTER_S


def find_debris(places: Mapping[str, str], store: Store | None, now_s: float | None = None) -> list[Debris]:
    """Look for `_temporary` in sources and sink, stages of attempts that are over, and half-written ledger objects."""
    now_s = time.time() if now_s is None else now_s
    found = [_folder("_temporary", f"{place}/_temporary", now_s) for place in map(_bare, places.values())]
    if store is not None:
        root, sink = _bare(store.root), _bare(places.get("sink", ""))
        half = [f for f in _local_files(root) if _HALF_WRITTEN.fullmatch(f.uri.rpartition("/")[2])]
        found += [_debris(_HALF, root, [file], now_s) for file in half]
        found += [_folder("doctor's scratch", f"{place}/{SCRATCH}", now_s) for place in (root, sink) if place]
        stages = [SinkStore(open_store(sink))] if sink else [store]  # a table of the catalog has its own in the ledger
        found += [_folder("a stage", place, now_s) for stage in stages for place in dead_units(stage, store)]
    return [one for one in found if one.uris]


def temporary(found: Iterable[Debris]) -> Check:
    """Report `_temporary` folders: a run refuses such a source, and another job would commit what is in them."""
    return _report("temporary", [d for d in found if d.what == "_temporary"])


def debris(found: Iterable[Debris]) -> Check:
    """Report what else was left; it does no harm but takes room."""
    return _report("debris", [d for d in found if d.what != "_temporary" and d.is_dead])


def open_runs(store: Store) -> Check:
    """Report runs whose driver is gone and that did not close."""
    dead: list[str] = []
    alive: list[str] = []
    for run_id in run_ids(store):
        numbers = attempts(store, run_id)
        if not numbers or any(e["event"] in CLOSING for e in read_events(store, run_id, numbers[-1])):
            continue
        (dead if last_sign(store, run_id, numbers[-1]).is_dead else alive).append(run_id)
    if dead:
        remedy = f"sparkscore runs resume {dead[0]} --ledger {store.root}"
        return warn("open-runs", f"{len(dead)} did not close and have no driver: {', '.join(dead[:5])}", remedy)
    return ok("open-runs", f"none without a driver; {len(alive)} with one")


def clean(found: Iterable[Debris]) -> list[str]:
    """Remove what is provably dead; give what was removed."""
    removed = []
    for one in found:
        if not one.is_dead:
            continue
        for uri in one.uris:
            with suppress(FileNotFoundError):  # its writer's own sweep may be at work, too
                files.delete(uri)
        _remove_empty(one)
        removed.append(f"{one.what} in {one.place}")
    return removed


def _report(code: str, found: list[Debris]) -> Check:
    if not found:
        return ok(code, "none")
    dead = [d for d in found if d.is_dead]
    text = "; ".join(
        f"{d.what} in {d.place}, {len(d.uris)} files, newest {d.age_s / 3600:.1f} h old" for d in found[:5]
    )
    remedy = (
        "sparkscore doctor PIPELINE --clean" if dead else "Find out whether that write still runs; look again later."
    )
    return warn(code, text, remedy)


def _folder(what: str, place: str, now_s: float) -> Debris:
    return _debris(what, place, files.list_files(place), now_s)


def _debris(what: str, place: str, found: list[files.FileStat], now_s: float) -> Debris:
    newest = max((f.mtime_ns for f in found), default=0) / 1e9
    return Debris(what, place, tuple(f.uri for f in found), now_s - newest if newest else 0.0)


def _local_files(root: str) -> list[files.FileStat]:
    return files.list_files(root) if files.local_path(root) is not None else []


def _bare(place: str) -> str:
    return place.rstrip("/")


def _remove_empty(one: Debris) -> None:
    """Remove the folders that a disk keeps; object stores have none."""
    local = files.local_path(one.place)
    if local is None or one.what == _HALF:
        return
    for folder in sorted((p for p in local.rglob("*") if p.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()
    with suppress(OSError):
        local.rmdir()
