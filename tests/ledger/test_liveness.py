"""The dead-man rule, from the ledger alone: by the store's stamp of the last beat, or by the process on the machine."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sparkscore.ledger.claims import claim_run, heartbeat_name
from sparkscore.ledger.events import claim_name, read_claim
from sparkscore.ledger.liveness import last_sign
from sparkscore.ledger.store import Store, open_store

BEAT_S = 1.0


@pytest.fixture(params=["disk", pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.slow])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return open_store(str(tmp_path))
    return open_store(f"{request.getfixturevalue('s3').bucket('ledgers')}/{tmp_path.name}".replace("s3:", "s3a:"))


def _elsewhere(store: Store) -> None:
    """Let the claim be one of another machine: only the heartbeat tells then."""
    store.put(claim_name("r1", 1), json.dumps({**read_claim(store, "r1", 1), "host": "elsewhere"}).encode())


@pytest.mark.slow
def test_an_attempt_is_red_after_two_missed_beats_and_not_before(store: Store) -> None:
    with claim_run(store, "r1", interval_s=BEAT_S, say=print):
        _elsewhere(store)
        time.sleep(2.5 * BEAT_S)  # it beats
        assert not last_sign(store, "r1", 1).is_dead
    assert not last_sign(store, "r1", 1).is_dead  # the beat is fresh, though nobody beats any more
    time.sleep(2 * BEAT_S + 1)  # S3 stamps whole seconds
    sign = last_sign(store, "r1", 1)
    assert sign.is_dead
    assert "no heartbeat since" in sign.why
    assert abs((datetime.now(UTC) - sign.at).total_seconds()) < 30


def test_a_claim_without_a_beat_counts_as_one(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    claim_run(store, "r1", interval_s=BEAT_S, say=print)
    _elsewhere(store)
    assert not last_sign(store, "r1", 1).is_dead
    store.put(heartbeat_name("r1"), json.dumps({"attempt": 7, "interval_s": 900, "at": "2026-01-01"}).encode())
    os.utime(tmp_path / claim_name("r1", 1), (time.time() - 3 * BEAT_S,) * 2)
    assert last_sign(store, "r1", 1).is_dead  # the beat is another attempt's


def test_a_stamp_from_the_future_calls_no_run_dead(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with claim_run(store, "r1", interval_s=BEAT_S, say=print):
        pass
    _elsewhere(store)
    os.utime(tmp_path / heartbeat_name("r1"), (time.time() + 3600,) * 2)
    assert not last_sign(store, "r1", 1).is_dead


def test_a_process_of_this_machine_that_is_gone_is_known_without_a_clock(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with claim_run(store, "r1", interval_s=900, say=print):
        claim = read_claim(store, "r1", 1)
        store.put(claim_name("r1", 1), json.dumps({**claim, "pid_start": "1"}).encode())  # the pid was given again
        sign = last_sign(store, "r1", 1)
    assert sign.why == f"is gone: no process {os.getpid()} on {claim['host']}"
