"""The key that a run's payloads are encrypted with: made once, and kept in the ledger only wrapped by the user's."""

from __future__ import annotations

import json
from typing import Any

from sparkscore.ledger.store import Store
from sparkscore.runtime.sealing import new_key, unwrapped, user_key, wrapped
from sparkscore.spec.scoring import Sealing

__all__ = ["assert_key", "recorded_key", "run_sealing"]


def assert_key(pipeline: Any) -> None:
    """Refuse a pipeline that encrypts and whose key, or the package for it, is not here, before anything is written.

    Raises
    ------
    ClusterError
        `SPS-ENV-KEY` or `SPS-ENV-PACKAGE`.
    """
    if pipeline.quarantine.payload == "encrypted":
        wrapped(new_key(), "", user_key(pipeline.quarantine.key))


def run_sealing(pipeline: Any, store: Store, run_id: str) -> Sealing | None:
    """Give what encrypts a run's payloads; None where the pipeline does not. All attempts of a run have one key.

    Raises
    ------
    ClusterError
        `SPS-ENV-KEY` when the user's key is not here, or is not the one that the run was started with.
    """
    if pipeline.quarantine.payload != "encrypted":
        return None
    by = user_key(pipeline.quarantine.key)
    if store.get(_name(run_id)) is None:
        record = {"key": pipeline.quarantine.key, "wrapped": wrapped(new_key(), run_id, by)}
        store.put_if_absent(_name(run_id), json.dumps(record).encode())
    return Sealing(_unwrapped(store, run_id, by), run_id)


def recorded_key(store: Store, run_id: str) -> bytes | None:
    """Give the key of a run that is in the ledger, by the user's key that it names; None where none was needed."""
    record = store.get(_name(run_id))
    return None if record is None else _unwrapped(store, run_id, user_key(json.loads(record)["key"]))


def _unwrapped(store: Store, run_id: str, by: bytes) -> bytes:
    return unwrapped(json.loads(store.get(_name(run_id)) or b"{}")["wrapped"], run_id, by)


def _name(run_id: str) -> str:
    return f"keys/{run_id}.json"
