"""What dead attempts left in a stage: files of units that no manifest names."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

from sparkscore.ledger.events import attempts
from sparkscore.ledger.store import Store
from sparkscore.run.stage import folder_name, run_of
from sparkscore.runtime import files

__all__ = ["dead_units", "sweep_debris"]

_OLD_S = 24 * 3600.0
_RUN, _ATTEMPT, _UNIT = (re.compile(rf"_ss_{kind}=(.+)") for kind in ("run", "attempt", "unit"))


def sweep_debris(store: Store, ledger: Store, now_s: float | None = None) -> list[str]:
    """Delete the `dead_units` whose newest file is older than 24 h, and tell them: a driver that was taken for dead may
    still write.

    Parameters
    ----------
    store : Store
        The sink's own.
    ledger : Store
        Knows the claims.
    now_s : float, optional
        Seconds since 1970, UTC.
    """
    swept = []
    now = time.time() if now_s is None else now_s
    for place in dead_units(store, ledger):
        newest_s = max((f.mtime_ns / 1e9 for f in files.list_files(place)), default=now)
        if now - newest_s > _OLD_S:
            files.delete_folder(place)
            swept.append(place)
    return swept


def dead_units(store: Store, ledger: Store) -> Iterator[str]:
    """Find the folders of units that were never committed, of attempts that a newer claim has passed over.

    Runs of another ledger are left alone.
    """
    for run_folder in store.names("_stage"):
        match = _RUN.fullmatch(run_folder)
        claimed = attempts(ledger, run_of(match[1])) if match else []
        if len(claimed) < 2:
            continue
        for attempt_folder in store.names(f"_stage/{run_folder}"):
            attempt = _ATTEMPT.fullmatch(attempt_folder)
            if attempt and int(attempt[1]) < claimed[-1]:
                yield from _uncommitted(store, f"_stage/{run_folder}/{attempt_folder}", int(attempt[1]))


def _uncommitted(store: Store, folder: str, attempt: int) -> Iterator[str]:
    run_id = run_of(folder.split("/")[1].split("=", 1)[1])
    for name in store.names(folder):
        unit = _UNIT.fullmatch(name)
        if unit is not None and _committed_by(store, run_id, int(unit[1])) != attempt:
            yield f"{store.root.rstrip('/')}/{folder}/{name}"


def _committed_by(store: Store, run_id: str, seq: int) -> int | None:
    data = store.get(f"_manifests/{folder_name(run_id)}/{seq:06d}.json")
    return None if data is None else int(json.loads(data)["attempt"])
