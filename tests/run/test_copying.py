"""Copies of sources in the ledger: they go when they are old and their runs are, and never before."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sparkscore.ledger.store import LocalStore
from sparkscore.run.copying import KEPT, remove_inputs, sweep_inputs

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def _copy(root: Path, run_id: str, age: timedelta) -> Path:
    folder = root / "inputs" / run_id / f"{NOW - age:%Y%m%dT%H%M%S}-0a1b2c3d"
    folder.mkdir(parents=True)
    (folder / "part-0.parquet").write_bytes(b"rows")
    return folder


def _ledger(root: Path, run_id: str, folder: Path | None, last_event: timedelta) -> None:
    store = LocalStore(root)
    places = [str(folder)] if folder else ["/lake/in"]
    store.put_if_absent(f"plans/{run_id}.json", json.dumps({"input": {"locations": places}}).encode())
    store.put_if_absent(f"claims/{run_id}/000001.json", b"{}")
    event = {"event": "run_closed", "at": (NOW - last_event).isoformat()}
    store.put_if_absent(f"events/{run_id}/000001/000000.json", json.dumps(event).encode())


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("made", "last_event", "is_planned", "goes"),
    [
        (KEPT + DAY, KEPT + DAY, True, True),
        (KEPT + DAY, KEPT + DAY, False, True),
        (KEPT + DAY, DAY, False, True),  # of a driver that died while it copied: another copy was scored
        (KEPT + DAY, DAY, True, False),  # a run that was resumed yesterday
        (KEPT - DAY, KEPT - DAY, True, False),
        (DAY, DAY, False, False),  # perhaps another driver is writing it
    ],
)
def test_a_copy_goes_when_it_is_old_and_no_run_of_late_needs_it(
    tmp_path: Path, made: timedelta, last_event: timedelta, is_planned: bool, goes: bool
) -> None:
    folder = _copy(tmp_path, "r1", made)
    _ledger(tmp_path, "r1", folder if is_planned else None, last_event)
    other = _copy(tmp_path, "r2", DAY)
    assert sweep_inputs(LocalStore(tmp_path), NOW) == ([str(folder)] if goes else [])
    assert folder.exists() != goes
    assert other.exists()


def test_what_is_no_copy_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "inputs" / "r1" / "notes"
    mine.mkdir(parents=True)
    assert sweep_inputs(LocalStore(tmp_path), NOW) == []
    assert mine.exists()


def test_a_run_that_is_taken_back_loses_its_copies(tmp_path: Path) -> None:
    mine, other = _copy(tmp_path, "r1", DAY), _copy(tmp_path, "r2", DAY)
    assert remove_inputs(LocalStore(tmp_path), "r1") == [str(mine)]
    assert (mine.exists(), other.exists()) == (False, True)
    assert remove_inputs(LocalStore(tmp_path), "never") == []
