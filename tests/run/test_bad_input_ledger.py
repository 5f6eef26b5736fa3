"""A sink or a ledger that somebody changed under a run: the proof finds it, and the run says so."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.run import attempt
from tests.run.conftest import write_rows

pytestmark = pytest.mark.spark

UNITS = 30_000  # rows, over three files: three units


def refused(code: str, exit_code: int, run) -> SparkscoreError:
    with pytest.raises(SparkscoreError) as caught:
        run()
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code), str(caught.value)
    return caught.value


@pytest.fixture
def before_the_proof(monkeypatch):
    """Do something to the sink or the ledger after a unit's commit and before its proof."""

    def arrange(action) -> None:
        honest = attempt.prove

        def act_and_prove(*args):
            action()
            return honest(*args)

        monkeypatch.setattr(attempt, "prove", act_and_prove)

    return arrange


def test_a_receipt_that_is_lost_makes_its_counts_unknown_and_the_rows_are_proved_without_it(
    spark, pipeline, tmp_path: Path, before_the_proof
) -> None:
    write_rows(tmp_path / "in", 100, 2)
    before_the_proof(lambda: next((tmp_path / "out_ledger" / "receipts" / "r1" / "0").iterdir()).unlink())
    summary = pipeline().run(spark, run_id="r1").summary()
    assert (summary.planned_rows, summary.ok_rows, summary.model_calls) == (100, 100, None)
    assert "receipts" in summary.warnings[0]


def test_a_receipt_that_tells_other_rows_opens_the_balance(spark, pipeline, tmp_path: Path, before_the_proof) -> None:
    write_rows(tmp_path / "in", 100, 2)

    def one_row_less() -> None:
        path = next((tmp_path / "out_ledger" / "receipts" / "r1" / "0").iterdir())
        receipt = json.loads(path.read_text())
        path.write_text(json.dumps({**receipt, "rows_in": receipt["rows_in"] - 1}))

    before_the_proof(one_row_less)
    found = refused("SPS-BALANCE", 6, lambda: pipeline().run(spark, run_id="r1"))
    assert "planned 100" in found.message
    assert "ok 100" in found.message


def test_rows_that_another_writer_added_under_the_units_name_open_the_balance(
    spark, pipeline, tmp_path: Path, before_the_proof
) -> None:
    write_rows(tmp_path / "in", 100, 1)
    sink = str(tmp_path / "out")

    def add_a_row() -> None:
        spark.read.format("delta").load(sink).limit(1).write.format("delta").mode("append").save(sink)

    before_the_proof(add_a_row)
    found = refused("SPS-BALANCE", 6, lambda: pipeline().run(spark, run_id="r1"))
    assert "ok 101" in found.message


def test_a_sink_that_lost_commits_is_a_gap_and_a_kept_sink_without_its_ledger_is_no_fresh_start(
    spark, pipeline, tmp_path: Path
) -> None:
    write_rows(tmp_path / "in", UNITS, 3)
    sink, ledger = tmp_path / "out", tmp_path / "out_ledger"
    stopped = [False]

    def stop_after_two(done: int, *_: object) -> None:
        if done == 2 and not stopped[0]:
            stopped[0] = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline().run(spark, run_id="r1", progress=stop_after_two)
    kept = tmp_path / "kept"
    shutil.copytree(ledger, kept)
    assert spark.read.format("delta").load(str(sink)).count() > 0

    # The ledger is gone and the run id is used again over other files: Delta would skip the units without a word.
    shutil.rmtree(ledger)
    shutil.copytree(tmp_path / "in", tmp_path / "other")
    other = {"format": "parquet", "location": str(tmp_path / "other")}
    found = refused("SPS-LEDGER-GAP", 6, lambda: pipeline(source=other).run(spark, run_id="r1"))
    assert "other files" in found.message

    # The ledger is back, and the sink is put back to the version of its first unit, then emptied of it.
    shutil.rmtree(ledger)
    shutil.copytree(kept, ledger)
    spark.sql(f"DELETE FROM delta.`{sink}` WHERE _ss.unit_seq = 0")
    spark.sql(f"RESTORE TABLE delta.`{sink}` TO VERSION AS OF 0")
    found = refused("SPS-LEDGER-GAP", 6, lambda: pipeline().run(spark, run_id="r1"))
    assert "RESTORE" in found.fix or "HISTORY" in found.fix


def test_a_lower_unit_after_a_higher_one_is_never_taken_for_done(spark, pipeline, tmp_path: Path, monkeypatch) -> None:
    write_rows(tmp_path / "in", UNITS, 3)
    resumed = attempt.Attempt._resume

    def resume_over_a_foreign_commit(self) -> None:
        resumed(self)
        metadata = {"run_id": "r1", "unit_seq": 2, "unit_id": "0" * 64, "attempt": 1, "plan_sha256": ""}
        writer = spark.range(0).selectExpr("struct('ok' AS status) AS _ss", "id", "float(0) AS score").write
        writer = writer.format("delta").option("txnAppId", "sparkscore/r1").option("txnVersion", "2")
        writer.option("userMetadata", json.dumps(metadata)).mode("append").save(str(tmp_path / "out"))

    monkeypatch.setattr(attempt.Attempt, "_resume", resume_over_a_foreign_commit)
    found = refused("SPS-TXN-SKIPPED", 6, lambda: pipeline().run(spark, run_id="r1"))
    assert "unit 0" in found.message
    assert "unit 2" in found.message


def test_a_second_driver_on_a_live_run_is_fenced_and_the_first_goes_on(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", UNITS, 3)
    second: list[SparkscoreError] = []

    def start_another(done: int, *_: object) -> None:
        if done == 1 and not second:
            thread = threading.Thread(target=twin)
            thread.start()
            thread.join(60)

    def twin() -> None:
        try:
            pipeline().run(spark, run_id="r1")
        except SparkscoreError as cause:
            second.append(cause)

    first = pipeline().run(spark, run_id="r1", progress=start_another)
    (cause,) = second
    assert (cause.code, cause.exit_code) == ("SPS-FENCED", 9)
    assert (first.state, first.summary().ok_rows) == ("SUCCEEDED", UNITS)
