"""The lease of a table: one writer at a time, in turn; the dead are passed, the living are waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.heartbeats import this_process
from sparkscore.ledger.lease import Lease
from sparkscore.ledger.store import LocalStore

BEAT_S = 0.2
WRITERS, TURNS = 3, 4

# Each writer enters a room for one: its door is a file that only one can make.
_TURNS = """
import contextlib, os, sys, time
from sparkscore.ledger.lease import Lease
from sparkscore.ledger.store import open_store
place, door, turns, protected = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "leased"
held = Lease(open_store(place), timeout_s=60).held if protected else contextlib.nullcontext
for turn in range(turns):
    with held():
        try:
            os.close(os.open(door, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            sys.exit(3)
        time.sleep(0.05)
        os.unlink(door)
        with open(door + ".log", "a") as log:
            print(os.getpid(), file=log)
"""
_HOLDER = """
import sys, time
from sparkscore.ledger.lease import Lease
from sparkscore.ledger.store import LocalStore
with Lease(LocalStore(sys.argv[1]), timeout_s=9, interval_s=0.2).held():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def _take_turns(root: str, door: Path, turns: int, protected: str) -> list[int]:
    """Run the writers at once; their exit codes."""
    command = [sys.executable, "-c", _TURNS, root, str(door), str(turns), protected]
    writers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(WRITERS)]
    return [writer.wait(120) for writer in writers]


def test_writers_of_one_table_are_in_its_room_one_at_a_time_and_take_turns(root: str, tmp_path: Path) -> None:
    turns = TURNS if root == str(tmp_path) else 2
    assert _take_turns(f"{root}/table", tmp_path / "door", turns, "leased") == [0] * WRITERS
    order = (tmp_path / "door.log").read_text().split()
    assert sorted(Counter(order).values()) == [turns] * WRITERS


def test_without_the_lease_they_meet(tmp_path: Path) -> None:
    assert 3 in _take_turns(str(tmp_path), tmp_path / "door", TURNS * 5, "unprotected")


def test_a_writer_alone_needs_one_ticket_however_often_it_writes(tmp_path: Path) -> None:
    lease = _lease(tmp_path)
    for _ in range(5):
        with lease.held():
            pass
    assert _tickets(tmp_path) == ["00000001.json"]


def test_a_writer_goes_behind_those_who_came_while_it_wrote(tmp_path: Path) -> None:
    first, second = _lease(tmp_path), _lease(tmp_path)
    for lease in (first, second, first, first):
        with lease.held():
            pass
    assert _tickets(tmp_path) == ["00000001.json", "00000002.json", "00000003.json"]


def test_a_holder_that_was_killed_is_passed_at_once(tmp_path: Path) -> None:
    with _holder(tmp_path) as holder:
        holder.kill()
        holder.wait()
        began = time.monotonic()
        with _lease(tmp_path, interval_s=30).held():
            assert time.monotonic() - began < 5


def test_a_holder_that_stands_still_is_passed_after_two_heartbeats_and_then_goes_behind(tmp_path: Path) -> None:
    with _holder(tmp_path) as holder:
        holder.send_signal(signal.SIGSTOP)
        with _lease(tmp_path).held():
            holder.send_signal(signal.SIGCONT)
    assert _tickets(tmp_path) == ["00000001.json", "00000002.json"]


def test_one_that_stood_still_while_it_waited_goes_behind_the_one_that_passed_it(tmp_path: Path) -> None:
    """Ticket 2 waits, stands still and is passed by 3; when it wakes, ticket 1 is over, and 3 is still held."""
    door = tmp_path / "door"
    command = [sys.executable, "-c", _TURNS, str(tmp_path), str(door), "1", "leased"]
    with _lease(tmp_path).held():
        waiter = subprocess.Popen(command)
        _until(lambda: LocalStore(tmp_path).get("_lease/beat/00000002.json") is not None)
        waiter.send_signal(signal.SIGSTOP)
    with _lease(tmp_path).held():
        os.close(os.open(door, os.O_CREAT | os.O_EXCL))
        waiter.send_signal(signal.SIGCONT)
        _until(lambda: len(_tickets(tmp_path)) == 4)
        door.unlink()
    assert waiter.wait(20) == 0


def test_a_lease_whose_ticket_was_given_up_waits_again(tmp_path: Path) -> None:
    lease = _lease(tmp_path, timeout_s=0.3)
    with _holder(tmp_path):
        for _ in range(2):
            with pytest.raises(SparkscoreError, match="SPS-CLUSTER-LEASE"), lease.held():
                pass


def test_a_live_holder_is_waited_for_and_then_named(tmp_path: Path) -> None:
    with _holder(tmp_path) as holder:
        named = rf"SPS-CLUSTER-LEASE.*within 0\.5 s.*pid {holder.pid}"
        with pytest.raises(SparkscoreError, match=named) as caught, _lease(tmp_path, timeout_s=0.5).held():
            pass
        assert caught.value.exit_code == 8
        # The ticket that was given up stands between; it lets nobody pass who is still to wait.
        with (
            pytest.raises(SparkscoreError, match=rf"SPS-CLUSTER-LEASE.*pid {holder.pid}"),
            _lease(tmp_path, timeout_s=0.5).held(),
        ):
            pass


def test_one_that_died_while_it_waited_lets_nobody_pass_the_holder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with _holder(tmp_path) as holder:
        foreign = {**asdict(this_process()), "host": "elsewhere"}
        store.put_if_absent("_lease/00000002.json", json.dumps(foreign).encode())
        with (
            pytest.raises(SparkscoreError, match=rf"SPS-CLUSTER-LEASE.*pid {holder.pid}"),
            _lease(tmp_path, timeout_s=0.5).held(),
        ):
            pass


def test_a_dead_holder_elsewhere_is_passed_whatever_lies_before_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for number, state in ((1, "held"), (2, "held")):
        store.put_if_absent(f"_lease/{number:08d}.json", json.dumps({"host": "elsewhere", "pid": 1}).encode())
        store.put(f"_lease/beat/{number:08d}.json", json.dumps({"state": state, "counter": 0}).encode())
    began = time.monotonic()
    with _lease(tmp_path).held():
        assert 2 * BEAT_S <= time.monotonic() - began < 4 * BEAT_S  # of one of the two


def test_a_table_that_has_no_room_for_a_lease_is_named(tmp_path: Path) -> None:
    (tmp_path / "_lease").write_text("not a folder")
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-SINK.*folder _lease of"), _lease(tmp_path).held():
        pass


def _lease(folder: Path, *, timeout_s: float = 9, interval_s: float = BEAT_S) -> Lease:
    return Lease(LocalStore(folder), timeout_s=timeout_s, interval_s=interval_s)


def _tickets(folder: Path) -> list[str]:
    return [name for name in LocalStore(folder).names("_lease") if name.endswith(".json")]


def _until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def _holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that holds the lease."""
    command = [sys.executable, "-c", _HOLDER, str(folder), "60"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        yield holder
    finally:
        holder.kill()
        holder.wait()


def test_an_earlier_attempt_of_the_same_run_is_no_hindrance_since_a_claim_has_passed_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with Lease(store, timeout_s=0, run_id="r1").held():
        for other in ("r2", None):
            with (
                pytest.raises(SparkscoreError, match="SPS-CLUSTER-LEASE"),
                Lease(store, timeout_s=0, run_id=other).held(),
            ):
                pass
        with Lease(store, timeout_s=0, run_id="r1").held():
            pass
