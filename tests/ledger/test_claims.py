"""One live driver a run: dead owners are passed, live ones are not, and a later claim ends an earlier driver."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.claims import claim_run
from sparkscore.ledger.events import EventLog, attempts, read_events
from sparkscore.ledger.heartbeats import this_process
from sparkscore.ledger.store import LocalStore

_OWNER = """
import sys, time
from sparkscore.ledger.claims import claim_run
from sparkscore.ledger.store import LocalStore
with claim_run(LocalStore(sys.argv[1]), "r1", interval_s=0.2, say=print):
    print("claimed", flush=True)
    time.sleep(60)
"""


def _owner(folder: Path) -> subprocess.Popen[str]:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline().strip() == "claimed"
    return owner


def _claim(folder: Path, **options: bool) -> int:
    with claim_run(LocalStore(folder), "r1", interval_s=0.2, say=lambda line: None, **options) as claim:
        return claim.attempt


def test_a_live_driver_of_another_process_fences_the_second_start(tmp_path: Path) -> None:
    owner = _owner(tmp_path)
    try:
        with pytest.raises(SparkscoreError, match=rf"SPS-FENCED.*pid {owner.pid}") as caught:
            _claim(tmp_path)
        assert caught.value.exit_code == 9
    finally:
        owner.kill()
        owner.wait()


def test_a_killed_driver_of_this_machine_is_passed_at_once(tmp_path: Path) -> None:
    owner = _owner(tmp_path)
    owner.kill()
    owner.wait()
    said: list[str] = []
    with claim_run(LocalStore(tmp_path), "r1", interval_s=30, say=said.append) as claim:
        assert claim.attempt == 2
    assert not said  # it did not watch a heartbeat


def test_a_silent_owner_on_another_host_is_passed_after_two_heartbeats(tmp_path: Path) -> None:
    _foreign_claim(tmp_path)
    said: list[str] = []
    with claim_run(LocalStore(tmp_path), "r1", interval_s=0.2, say=said.append) as claim:
        assert claim.attempt == 2
    assert "watching its heartbeat" in said[0]


def test_an_owner_in_another_container_of_this_machine_is_watched(tmp_path: Path) -> None:
    """Its pid means nothing here: that no such process is seen does not say that it is gone."""
    body = {**asdict(this_process()), "pid": 2**22 + 1, "pid_start": "1", "pid_namespace": "pid:[1]"}
    LocalStore(tmp_path).put_if_absent("claims/r1/000001.json", json.dumps(body).encode())
    said: list[str] = []
    with claim_run(LocalStore(tmp_path), "r1", interval_s=0.2, say=said.append):
        assert "watching its heartbeat" in said[0]


def test_a_heartbeat_that_the_disk_refused_goes_on_when_the_disk_does(tmp_path: Path) -> None:
    class Counting(LocalStore):
        beats = 0

        def put(self, name: str, data: bytes) -> None:
            self.beats += 1
            super().put(name, data)

    store, beat = Counting(tmp_path), tmp_path / "heartbeat" / "r1.json"
    beat.mkdir(parents=True)  # a file cannot take its place
    with claim_run(store, "r1", interval_s=0.02, say=print):
        _until(lambda: store.beats >= 3)
        beat.rmdir()
        _until(beat.is_file)


def test_take_over_does_not_watch(tmp_path: Path) -> None:
    _foreign_claim(tmp_path)
    said: list[str] = []
    with claim_run(LocalStore(tmp_path), "r1", interval_s=30, take_over=True, say=said.append) as claim:
        assert claim.attempt == 2
    assert not said


@pytest.mark.parametrize("closing", ["run_closed", "run_failed", "run_stopped", "run_fenced"])
def test_an_attempt_that_closed_blocks_nobody(tmp_path: Path, closing: str) -> None:
    store = LocalStore(tmp_path)
    with claim_run(store, "r1", interval_s=30, say=print) as claim:
        EventLog(store, "r1", claim.attempt).write(closing)
        assert _claim(tmp_path) == 2


def test_a_later_claim_ends_the_earlier_driver(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with claim_run(store, "r1", interval_s=30, say=print) as zombie:
        zombie.assert_mine()
        with claim_run(store, "r1", interval_s=30, take_over=True, say=print) as successor:
            successor.assert_mine()
            with pytest.raises(SparkscoreError, match=r"SPS-FENCED.*attempt 1.*attempt 2"):
                zombie.assert_mine()


def test_two_writers_of_one_attempt_are_told_apart(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = EventLog(store, "r1", 1), EventLog(store, "r1", 1)
    first.write("unit_started")
    with pytest.raises(SparkscoreError, match="SPS-FENCED"):
        second.write("unit_started")


class _CutShort(LocalStore):
    """A store whose second write lands, and whose caller is told to stop before it hears of it."""

    _writes = 0

    def put_if_absent(self, name: str, data: bytes) -> bool:
        landed = super().put_if_absent(name, data)
        self._writes += 1
        if self._writes == 2:
            raise KeyboardInterrupt
        return landed


def test_a_signal_in_the_midst_of_an_event_leaves_the_next_one_a_number(tmp_path: Path) -> None:
    store = _CutShort(tmp_path)
    events = EventLog(store, "r1", 1)
    events.write("run_claimed")
    with pytest.raises(KeyboardInterrupt):
        events.write("unit_committed")
    events.write("run_stopped")
    assert [e["event"] for e in read_events(store, "r1", 1)] == ["run_claimed", "unit_committed", "run_stopped"]


def test_a_log_that_goes_on_takes_the_number_after_the_last_one_though_one_is_missing(tmp_path: Path) -> None:
    for event in ("a", "b", "c"):
        EventLog(LocalStore(tmp_path), "r1", 0).write(event)
    next(tmp_path.rglob("000001.json")).unlink()
    EventLog(LocalStore(tmp_path), "r1", 0).write("d")
    assert [e["event"] for e in read_events(LocalStore(tmp_path), "r1", 0)] == ["a", "c", "d"]


class _Stale(LocalStore):
    """A store that lists nothing of what was written."""

    def names(self, prefix: str) -> list[str]:
        return []


def test_claims_that_a_stale_listing_hides_are_asked_for_by_name(tmp_path: Path) -> None:
    for _ in range(2):
        claim_run(_Stale(tmp_path), "r1", take_over=True, say=print)
    assert attempts(_Stale(tmp_path), "r1") == attempts(LocalStore(tmp_path), "r1") == [1, 2]


def _foreign_claim(folder: Path) -> None:
    body = {"host": "elsewhere", "boot_id": "x", "pid": 1, "pid_start": "1"}
    LocalStore(folder).put_if_absent("claims/r1/000001.json", json.dumps(body).encode())


def _until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)
