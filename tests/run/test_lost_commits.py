"""A commit that another writer overwrote, as on a store without put-if-absent: it is seen, told and made again."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.events import read_events
from sparkscore.ledger.store import LocalStore
from sparkscore.run import batch
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
        write, left = batch.write_unit, [times]

        def write_and_lose(frame: Any, sink: Any, commit: Any, *rest: Any) -> None:
            write(frame, sink, commit, *rest)
            if commit.unit_seq == 1 and left[0]:
                left[0] -= 1
                overwrite(table, times - left[0])

        monkeypatch.setattr(batch, "write_unit", write_and_lose)

    return lose


def test_a_commit_that_was_lost_is_made_again(spark, pipeline, tmp_path: Path, losing) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    losing(tmp_path / "out", 2)
    run = pipeline().run(spark, run_id="r1")
    assert Counter(delta_rows(tmp_path / "out")["id"].to_pylist()) == Counter(range(ROWS))
    assert [unit.committed_version for unit in run.units().orderBy("unit_seq").collect()] == [0, 3, 4]
    events = read_events(LocalStore(run.summary().ledger), "r1")
    assert [e["unit_seq"] for e in events if e["event"] == "commit_lost"] == [1, 1]


def test_a_commit_that_is_lost_every_time_ends_the_run(spark, pipeline, tmp_path: Path, losing) -> None:
    write_rows(tmp_path / "in", ROWS, 3)
    losing(tmp_path / "out", 3)
    with pytest.raises(SparkscoreError, match="SPS-CLUSTER-CONFLICT"):
        pipeline().run(spark, run_id="r1")
