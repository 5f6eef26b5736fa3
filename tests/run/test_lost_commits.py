"""A commit that another writer overwrote, as on a store without put-if-absent: it is seen, told and made again."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.events import read_events
from sparkscore.ledger.store import LocalStore
from sparkscore.run import attempt, delta_line
from tests.run.conftest import delta_rows, write_rows

pytestmark = pytest.mark.spark

ROWS = 30_000


def overwrite(table: Path, version: int) -> None:
    """Put another writer's entry in the place of a version's, which thereby loses its rows."""
    info = {"timestamp": time.time_ns() // 1_000_000, "operation": "WRITE", "operationParameters": {}}
    entry = table / "_delta_log" / f"{version:020d}.json"
    (entry.parent / f".{entry.name}.crc").unlink()  # Hadoop's checksum of the file that was there
    entry.write_text(json.dumps({"commitInfo": info}) + "\n")


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Make the first `times` commits of unit 1 to a table be lost, right after each."""

    def lose(table: Path, times: int) -> None:
        write, left = delta_line.write_unit, [times]

        def write_and_lose(frame: Any, sink: Any, commit: Any, *rest: Any) -> None:
            write(frame, sink, commit, *rest)
            if commit.unit_seq == 1 and left[0]:
                left[0] -= 1
                overwrite(table, times - left[0])

        monkeypatch.setattr(delta_line, "write_unit", write_and_lose)

    return lose


def test_a_commit_that_was_lost_is_made_again(spark, pipeline, tmp_path: Path, losing) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    losing(tmp_path / "out", 2)
    run = pipeline().run(spark, run_id="r1")
    assert _ids(tmp_path) == Counter(range(ROWS))
    assert [unit.committed_version for unit in run.units().orderBy("unit_seq").collect()] == [0, 3, 4]
    events = read_events(LocalStore(run.summary().ledger), "r1")
    assert [e["unit_seq"] for e in events if e["event"] == "commit_lost"] == [1, 1]


def test_a_commit_that_was_lost_under_later_units_is_made_again(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    seen: list[int] = []

    def lose_when_all_are_there(done: int, *_: object) -> None:
        if done == 3 and not seen:
            overwrite(tmp_path / "out", 1)
            seen.append(done)

    run = pipeline().run(spark, run_id="r1", progress=lose_when_all_are_there)
    assert _ids(tmp_path) == Counter(range(ROWS))
    assert [unit.committed_version for unit in run.units().orderBy("unit_seq").collect()] == [0, 3, 2]
    assert (run.summary().ok_rows, run.summary().units, run.summary().reused_units) == (ROWS, 3, 0)


def test_a_resume_makes_a_commit_again_that_was_lost_before_it_was_recorded(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    _stopped_after(3, spark, pipeline)
    overwrite(tmp_path / "out", 1)
    run = pipeline().run(spark, run_id="r1")
    assert _ids(tmp_path) == Counter(range(ROWS))
    assert (run.summary().ok_rows, run.summary().reused_units) == (ROWS, 2)


def test_commits_that_were_cleaned_from_the_log_are_not_lost(
    spark, pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    monkeypatch.setattr(attempt, "_PROOF_EVERY_S", 0.0)  # both units are recorded before the driver stops
    _stopped_after(2, spark, pipeline)
    log = tmp_path / "out" / "_delta_log"
    for entry in log.glob("*.json"):
        os.utime(entry, (0, 0))
    kept = {"logRetentionDuration": "1 hours", "deletedFileRetentionDuration": "1 hours", "checkpointInterval": "1"}
    properties = ", ".join(f"'delta.{name}' = '{value}'" for name, value in kept.items())
    spark.sql(f"ALTER TABLE delta.`{tmp_path / 'out'}` SET TBLPROPERTIES ({properties})")
    spark.range(0).selectExpr("id").write.format("delta").mode("append").save(str(tmp_path / "out"))
    assert not (log / f"{0:020d}.json").exists()
    run = pipeline().run(spark, run_id="r1")
    assert _ids(tmp_path) == Counter(range(ROWS))
    assert (run.summary().ok_rows, run.summary().reused_units) == (ROWS, 2)


def test_a_unit_at_another_version_than_the_ledger_says_is_a_gap(
    spark, pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    monkeypatch.setattr(attempt, "_PROOF_EVERY_S", 0.0)
    _stopped_after(2, spark, pipeline)
    for event in (tmp_path / "out_ledger" / "events").rglob("*.json"):
        event.write_text(event.read_text().replace('"committed_version": 1', '"committed_version": 7'))
    with pytest.raises(SparkscoreError, match=r"SPS-LEDGER-GAP.*unit 1 at version 7.*version 1"):
        pipeline().run(spark, run_id="r1")


def _stopped_after(units: int, spark: Any, pipeline: Any) -> None:
    def stop(done: int, *_: object) -> None:
        if done == units:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline().run(spark, run_id="r1", progress=stop)


def _ids(folder: Path) -> Counter[int]:
    return Counter(delta_rows(folder / "out")["id"].to_pylist())


def test_a_commit_that_is_lost_every_time_ends_the_run(spark, pipeline, tmp_path: Path, losing) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    losing(tmp_path / "out", 3)
    with pytest.raises(SparkscoreError, match="SPS-CLUSTER-CONFLICT"):
        pipeline().run(spark, run_id="r1")
