"""A driver that dies right before any of its writes to the ledger: the same run id again ends well, each row once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import LocalStore, Store
from sparkscore.run import batch, delta_line, folding
from sparkscore.run.discarding import discard_run
from tests.run.conftest import WEIGHTS, delta_rows, expected_score, write_rows

pytestmark = pytest.mark.spark

ROWS = 2_000
TWO_UNITS = 20_000  # rows of two files that are large enough for a unit each
BEAT_S = 0.2


class Death(BaseException):
    """The driver is gone: nothing of it writes any more."""


class DyingStore(LocalStore):
    """A ledger whose driver dies right before it writes the object whose name or event holds `last`."""

    def __init__(self, root: str, last: str) -> None:
        super().__init__(root)
        self.last = last
        self.dead = False

    def put_if_absent(self, name: str, data: bytes) -> bool:
        self.dead = self.dead or self.last in name or f'"event": "{self.last}"'.encode() in data
        if self.dead:
            raise Death
        return super().put_if_absent(name, data)

    def put(self, name: str, data: bytes) -> None:
        if not self.dead:
            super().put(name, data)


def dies(monkeypatch: pytest.MonkeyPatch, last: str, call: Any) -> None:
    """Make a call whose driver dies before it writes `last`."""
    with monkeypatch.context() as patched:
        patched.setattr(batch, "open_store", lambda root: DyingStore(root, last))
        with pytest.raises(Death):
            call()


@pytest.mark.parametrize(
    "last",
    ["plans/r1.json", "claims/", "run_claimed", "unit_committed", "quarantine_folded", "run_closed", "tables_folded"],
)
def test_whatever_the_driver_wrote_last_the_same_run_id_again_ends_well(
    spark, pipeline, tmp_path: Path, monkeypatch, last: str
) -> None:
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i == 7)
    dies(monkeypatch, last, lambda: pipeline().run(spark, run_id="r1"))
    run = batch.run_batch(spark, pipeline().spec, "r1", heartbeat_s=BEAT_S)

    summary = run.summary()
    assert (summary.state, summary.ok_rows, summary.quarantined_rows) == ("SUCCEEDED", ROWS - 1, 1)
    assert summary.started_at
    rows = delta_rows(tmp_path / "out").to_pylist()
    assert Counter(r["id"] for r in rows) == Counter(range(ROWS))
    assert all(r["score"] == (None if r["id"] == 7 else expected_score(r["id"])) for r in rows)
    tables = tmp_path / "out_ledger" / "tables"
    assert delta_rows(tables / "runs")["state"].to_pylist().count("SUCCEEDED") == 1
    assert delta_rows(tables / "quarantine").num_rows == 1


def test_a_finished_run_stays_finished_when_its_last_fold_fails(spark, pipeline, tmp_path: Path, monkeypatch) -> None:
    write_rows(tmp_path / "in", ROWS, 2)
    with monkeypatch.context() as patched:
        patched.setattr(folding, "fold_run", lambda *_, **__: 1 / 0)
        assert pipeline().run(spark, run_id="r1").state == "SUCCEEDED"
    assert not (tmp_path / "out_ledger" / "tables" / "runs").exists()
    assert pipeline().run(spark, run_id="r1").summary().repeated
    assert delta_rows(tmp_path / "out_ledger" / "tables" / "runs")["state"].to_pylist() == ["SUCCEEDED"]


def test_the_same_run_id_again_needs_neither_its_input_nor_its_model(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    finished = pipeline()
    finished.run(spark, run_id="r1")
    (tmp_path / "in" / "part-000.parquet").unlink()
    (tmp_path / "linear.onnx").unlink()
    assert finished.run(spark, run_id="r1").summary().repeated


def test_the_plan_of_a_driver_that_planned_first_holds_with_its_model(
    spark, pipeline, tmp_path: Path, monkeypatch
) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    mine, make_plan = pipeline(), batch.make_plan

    def planned_meanwhile(*args: Any) -> Any:
        plan = make_plan(*args)
        monkeypatch.setattr(batch, "make_plan", make_plan)
        _double_the_weights(tmp_path / "linear.onnx")
        dies(monkeypatch, "claims/", lambda: mine.run(spark, run_id="r1"))
        return plan

    monkeypatch.setattr(batch, "make_plan", planned_meanwhile)
    assert mine.run(spark, run_id="r1").state == "SUCCEEDED"
    for row in delta_rows(tmp_path / "out").to_pylist():
        assert row["score"] == 2 * expected_score(row["id"])


def test_a_driver_that_was_taken_for_dead_ends_fenced_and_its_successor_succeeds(
    spark, pipeline, tmp_path: Path, monkeypatch
) -> None:
    """The first driver stands still before it commits unit 1, and wakes while its successor commits the same unit."""
    write_rows(tmp_path / "in", TWO_UNITS, 2)
    write = delta_line.write_unit
    seconds: list[Any] = []

    def stands_still(frame: Any, *args: Any) -> None:
        if args[1].unit_seq == 1:
            monkeypatch.setattr(delta_line, "write_unit", conflicts(lambda: write(frame, *args)))
            seconds.append(batch.run_batch(spark, pipeline().spec, "r1", take_over=True, heartbeat_s=BEAT_S).summary())
        else:
            write(frame, *args)

    def conflicts(wakes: Any) -> Any:
        def second_write(*_: Any) -> None:
            wakes()
            raise error("SPS-FENCED", "What Delta says of it: ConcurrentTransaction.", "-")

        return second_write

    monkeypatch.setattr(delta_line, "write_unit", stands_still)
    with pytest.raises(SparkscoreError, match="SPS-FENCED") as caught:
        pipeline().run(spark, run_id="r1")
    assert caught.value.exit_code == 9
    (second,) = seconds
    assert (second.state, second.attempt, second.ok_rows, second.reused_units) == ("SUCCEEDED", 2, TWO_UNITS, 2)
    assert Counter(delta_rows(tmp_path / "out")["id"].to_pylist()) == Counter(range(TWO_UNITS))


def test_a_driver_that_was_taken_for_dead_brings_no_row_back_into_a_discarded_run(
    spark, pipeline, tmp_path: Path, monkeypatch
) -> None:
    write_rows(tmp_path / "in", TWO_UNITS, 2)
    copy = tmp_path / "out_ledger" / "inputs" / "r1" / "20261127T120000-0a1b2c3d"  # as of a source without files
    copy.mkdir(parents=True)
    write = delta_line.write_unit
    store: Store = LocalStore(tmp_path / "out_ledger")

    def discarded_meanwhile(frame: Any, sink: Any, commit: Any, *args: Any) -> None:
        if commit.unit_seq == 1:
            discard_run(spark, store, read_plan(store, "r1"), take_over=True)
        write(frame, sink, commit, *args)

    monkeypatch.setattr(delta_line, "write_unit", discarded_meanwhile)
    with pytest.raises(SparkscoreError, match="SPS-FENCED"):
        pipeline().run(spark, run_id="r1")
    assert delta_rows(tmp_path / "out").num_rows == 0
    assert not copy.exists()


def test_a_new_place_of_the_quarantine_gets_all_bad_rows_of_the_run(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i < 100)
    with pytest.raises(SparkscoreError, match="SPS-BUDGET"):
        pipeline().run(spark, run_id="r1")
    place = {"location": str(tmp_path / "bad")}
    run = pipeline(quarantine=place, on_error={"max_fraction": 0.2}).run(spark, run_id="r1")
    assert run.summary().quarantine == place["location"]
    assert delta_rows(tmp_path / "bad").num_rows == 100


def _double_the_weights(model: Path) -> None:
    loaded = onnx.load(str(model))
    loaded.graph.initializer[0].CopyFrom(numpy_helper.from_array(2 * WEIGHTS, "w"))
    onnx.save(loaded, str(model))


def test_runs_that_end_at_the_same_moment_share_their_tables(spark, tmp_path: Path) -> None:
    table, begin = str(tmp_path / "t"), Barrier(2)

    def merged(run_id: str) -> None:
        begin.wait()
        rows = spark.createDataFrame([(run_id, 0)], "run_id string, unit_seq bigint")
        folding.merge(spark, table, ("run_id", "unit_seq"), rows)

    with ThreadPoolExecutor(2) as pool:
        assert [f.exception() for f in [pool.submit(merged, f"r{i}") for i in range(2)]] == [None] * 2
    assert delta_rows(table).num_rows == 2
