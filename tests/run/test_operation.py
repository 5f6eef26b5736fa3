"""What an operator does with a ledger: tables made anew, a resume without the file, a run that died, lost receipts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.events import read_events
from sparkscore.ledger.fold import run_rows
from sparkscore.ledger.store import LocalStore
from sparkscore.run import attempt, batch
from sparkscore.run.folding import fold_run
from sparkscore.run.rebuilding import rebuild_tables
from tests.run.conftest import delta_rows, write_rows
from tests.run.test_crash_points import dies

pytestmark = pytest.mark.spark

ROWS, TWO_UNITS, BEAT_S = 2_000, 20_000, 0.2


def _tables(ledger: Path) -> dict[str, list[str]]:
    """The rows of both tables as a second reader has them, in an order of their own."""
    return {
        name: sorted(
            json.dumps(row, default=str, sort_keys=True) for row in delta_rows(ledger / "tables" / name).to_pylist()
        )
        for name in ("runs", "units")
    }


def _two_runs(spark: Any, pipeline: Callable[..., Any], tmp_path: Path) -> Path:
    """A ledger of a run that broke its budget and then succeeded, and of one more."""
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i < 100)
    with pytest.raises(SparkscoreError, match="SPS-BUDGET"):
        pipeline().run(spark, run_id="r1")
    wide = pipeline(on_error={"max_fraction": 0.2})
    wide.run(spark, run_id="r1")
    wide.run(spark, run_id="r2")
    return tmp_path / "out_ledger"


def _garbage(table: Path) -> None:
    for entry in (table / "_delta_log").glob("*.json"):
        entry.write_text("{ torn")


def _half_an_entry(table: Path) -> None:
    """What a writer leaves that dies in the middle of an entry on a disk without atomic puts."""
    newest = max((table / "_delta_log").glob("*.json"))
    data = newest.read_bytes()
    (newest.with_name(f"{int(newest.stem) + 1:020d}.json")).write_bytes(data[: len(data) // 2])


def _other_rows(table: Path) -> None:
    """A table that can be read and is wrong."""
    from deltalake import DeltaTable

    DeltaTable(str(table)).delete()


@pytest.mark.slow
def test_tables_are_made_anew_from_the_events_alone_whatever_became_of_them(spark, pipeline, tmp_path: Path) -> None:
    ledger = _two_runs(spark, pipeline, tmp_path)
    before = _tables(ledger)
    assert len(before["runs"]) == 3
    for damages in ({"runs": _garbage, "units": _half_an_entry}, {"runs": _other_rows, "units": shutil.rmtree}):
        moved = tmp_path / damages["runs"].__name__  # another path: this session remembers tables by theirs
        shutil.copytree(ledger, moved)
        for name, damage in damages.items():
            damage(moved / "tables" / name)
        assert rebuild_tables(spark, LocalStore(moved)) == {"runs": 3, "units": 2}, damages
        assert _tables(moved) == before, damages
    for name in before:  # and in the place where this session wrote them itself
        _garbage(ledger / "tables" / name)
    rebuild_tables(spark, LocalStore(ledger))
    assert _tables(ledger) == before
    assert list((ledger / "tables" / "_broken").iterdir())


def test_a_run_that_was_killed_is_red_and_reaches_the_tables_by_a_fold(
    spark, pipeline, tmp_path: Path, monkeypatch
) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    dies(monkeypatch, "quarantine_folded", lambda: batch.run_batch(spark, pipeline().spec, "r1", heartbeat_s=BEAT_S))
    store = LocalStore(tmp_path / "out_ledger")
    time.sleep(3 * BEAT_S)  # this process lives: only its silence shows
    (row,) = run_rows(store, "r1")
    assert (row["state"], row["exit_code"]) == ("ABANDONED", None)
    assert "no heartbeat since" in row["error_message"]
    fold_run(spark, store, "r1")
    assert delta_rows(tmp_path / "out_ledger" / "tables" / "runs")["state"].to_pylist() == ["ABANDONED"]
    assert delta_rows(tmp_path / "out_ledger" / "tables" / "units").num_rows == 1

    batch.run_batch(spark, pipeline().spec, "r1", heartbeat_s=BEAT_S)
    fold_run(spark, store, "r1")
    states = {r["attempt"]: r["state"] for r in delta_rows(tmp_path / "out_ledger" / "tables" / "runs").to_pylist()}
    assert states == {1: "ABANDONED", 2: "SUCCEEDED"}


@pytest.fixture
def no_receipts(tmp_path: Path) -> None:
    """A place in which nobody makes a folder, root included."""
    (tmp_path / "out_ledger").mkdir()
    (tmp_path / "out_ledger" / "receipts").symlink_to("/proc/sparkscore-has-no-place-here")


def test_without_receipts_a_run_says_what_it_does_not_know_and_proves_the_rest(
    spark, pipeline, tmp_path: Path, no_receipts
) -> None:
    write_rows(tmp_path / "in", TWO_UNITS, 2, bad=lambda i: i % 1000 == 0)
    summary = pipeline().run(spark, run_id="r1").summary()
    assert (summary.state, summary.ok_rows, summary.quarantined_rows) == ("SUCCEEDED", TWO_UNITS - 20, 20)
    assert (summary.planned_rows, summary.filtered_rows, summary.model_calls) == (TWO_UNITS, {}, None)
    (warning,) = summary.warnings
    assert "2 of 2 units could not write their receipts" in warning
    assert "rows planned = ok + quarantined is proved" in warning
    assert "unknown: no receipts" in str(summary)
    (row,) = delta_rows(tmp_path / "out_ledger" / "tables" / "runs").to_pylist()
    assert (row["balance_ok"], row["model_calls"], row["scored_rows"]) == (True, None, None)
    missing = [e for e in read_events(LocalStore(tmp_path / "out_ledger"), "r1") if e["event"] == "receipts_missing"]
    assert [e["balance_proved"] for e in missing] == [True, True]


def test_without_receipts_rows_that_prepare_dropped_are_unknown_and_the_balance_is_open(
    spark, pipeline, tmp_path: Path, no_receipts
) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    summary = pipeline(prepare=[{"where": "id >= 500"}]).run(spark, run_id="r1").summary()
    assert (summary.state, summary.ok_rows, summary.filtered_rows) == ("SUCCEEDED", ROWS - 500, None)
    assert "cannot be told from a lost one" in summary.warnings[0]
    assert f"{ROWS:,} planned = 1,500 ok + 0 quarantined + ? filtered" in str(summary)
    (row,) = delta_rows(tmp_path / "out_ledger" / "tables" / "runs").to_pylist()
    assert (row["balance_ok"], row["filtered_rows"]) == (None, None)


def test_without_receipts_a_row_that_is_lost_or_added_still_opens_the_balance(
    spark, pipeline, tmp_path: Path, no_receipts, monkeypatch
) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    honest = attempt.prove

    def one_row_more(session: Any, plan: Any, *args: Any) -> Any:
        sink = str(tmp_path / "out")
        spark.read.format("delta").load(sink).limit(1).write.format("delta").mode("append").save(sink)
        return honest(session, plan, *args)

    monkeypatch.setattr(attempt, "prove", one_row_more)
    with pytest.raises(SparkscoreError, match=r"SPS-BALANCE.*receipts are missing"):
        pipeline().run(spark, run_id="r1")


def test_without_receipts_the_budget_is_judged_after_each_unit(spark, pipeline, tmp_path: Path, no_receipts) -> None:
    write_rows(tmp_path / "in", 3 * TWO_UNITS, 6, bad=lambda i: i % 29 == 0 and 10_000 <= i < 20_000)
    with pytest.raises(SparkscoreError, match="SPS-BUDGET"):
        pipeline().run(spark, run_id="r1")
    events = [e["event"] for e in read_events(LocalStore(tmp_path / "out_ledger"), "r1")]
    assert events.count("unit_committed") == 2
    assert "budget_breached" in events


def test_each_event_of_a_run_has_an_id_that_says_what_it_is(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    pipeline(model={"uri": str(tmp_path / "linear.onnx"), "device": "auto"}).run(spark, run_id="r1")
    events = read_events(LocalStore(tmp_path / "out_ledger"), "r1")
    told = [e["event"] for e in events]
    assert told[:3] == ["run_claimed", "run_planned", "unit_started"]
    assert told[3:6] == ["unit_committed", "provider_resolved", "fallback"]
    ids = {e["event"]: e["event_id"] for e in events}
    assert (ids["run_closed"], ids["unit_committed"]) == ("r1/run_closed", "r1/1/3")
    assert len({e["event_id"] for e in events}) == len(events)
    assert events[0]["model_flags"] == []


def test_a_model_that_is_refused_before_there_is_a_run_is_an_event_all_the_same(
    spark, pipeline, tmp_path: Path
) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    refused = pipeline()
    (tmp_path / "linear.onnx").write_bytes(b"no model")
    with pytest.raises(SparkscoreError, match="SPS-MODEL-FORMAT"):
        refused.run(spark, run_id="r1")
    (event,) = read_events(LocalStore(tmp_path / "out_ledger"), "r1", 0)
    assert (event["event"], event["code"], event["attempt"]) == ("model_rejected", "SPS-MODEL-FORMAT", 0)


def _metrics(file: Path) -> dict[tuple[str, ...], float]:
    families = list(text_string_to_metric_families(file.read_text()))
    for family in families:
        assert family.documentation
        for sample in family.samples:
            assert set(sample.labels) <= {"pipeline", "status", "state", "provider", "le"}
    return {
        (s.name, *(v for k, v in sorted(s.labels.items()) if k != "pipeline")): s.value
        for family in families
        for s in family.samples
    }


def test_metrics_are_a_file_that_prometheus_reads_and_a_resume_goes_on_with_it(
    spark, pipeline, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("SPARKSCORE_METRICS_DIR", str(tmp_path / "metrics"))
    write_rows(tmp_path / "in", TWO_UNITS, 2, bad=lambda i: i < 150 or i >= TWO_UNITS - 150)
    with pytest.raises(SparkscoreError, match="SPS-BUDGET"):
        pipeline().run(spark, run_id="r1")
    file = tmp_path / "metrics" / "sparkscore-t.prom"
    first = _metrics(file)
    assert first["sparkscore_rows_total", "quarantined"] == 150
    assert first["sparkscore_lag_rows",] == TWO_UNITS / 2
    pipeline(on_error={"max_fraction": 0.1}).run(spark, run_id="r1")
    second = _metrics(file)
    assert second["sparkscore_rows_total", "ok"] == TWO_UNITS - 300
    assert second["sparkscore_rows_total", "quarantined"] == 300
    assert second["sparkscore_units_total", "committed"] == 2
    assert second["sparkscore_units_total", "failed"] == 0
    receipts = [json.loads(p.read_text()) for p in (tmp_path / "out_ledger" / "receipts").rglob("*.json")]
    calls = sum(r["model_calls"] for r in receipts)
    assert second["sparkscore_model_call_seconds_count",] == calls
    assert second["sparkscore_model_call_seconds_bucket", "+Inf"] == calls
    assert second["sparkscore_model_call_seconds_sum",] > 0
    assert second["sparkscore_lag_rows",] == 0
    assert second["sparkscore_balance_ok",] == 1
    assert second["sparkscore_provider_info", "CPUExecutionProvider"] == 1
    assert ("sparkscore_heartbeat_timestamp_seconds",) not in second
    assert [p.name for p in file.parent.iterdir()] == [file.name]


_DRIVER = """
import sys
from sparkscore.run import attempt, batch
from sparkscore.spark.sessions import local_session
from sparkscore.spec.pipeline import load_pipeline
batch.run_batch(local_session("local[2,4]"), load_pipeline(sys.argv[1]), "r1", heartbeat_s=1.0)
"""


@pytest.mark.slow
def test_a_driver_that_hangs_or_vanishes_is_red_within_30_s_from_the_ledger_alone(
    pipeline, document, tmp_path: Path
) -> None:
    write_rows(tmp_path / "in", 3 * TWO_UNITS, 3)
    keys = document(model={"uri": str(tmp_path / "linear.onnx"), "batch_size": 1})  # a call a row: slow
    (tmp_path / "p.json").write_text(json.dumps(keys))
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _DRIVER, str(tmp_path / "p.json")]
    driver = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.DEVNULL)
    store = LocalStore(tmp_path / "out_ledger")
    try:
        _until(lambda: _state(store) == "RUNNING", 120)
        os.kill(driver.pid, signal.SIGSTOP)
        assert _until(lambda: _state(store) == "ABANDONED", 30) >= 1.0
        os.kill(driver.pid, signal.SIGCONT)
        _until(lambda: _state(store) == "RUNNING", 30)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert _state(store) == "ABANDONED"
    assert f"no process {driver.pid}" in run_rows(store, "r1")[-1]["error_message"]


def _state(store: LocalStore) -> str:
    return str((run_rows(store, "r1") or [{"state": "none"}])[-1]["state"])


def _until(fact: Callable[[], bool], within_s: float) -> float:
    started = time.monotonic()
    while not fact():
        assert time.monotonic() - started < within_s
        time.sleep(0.1)
    return time.monotonic() - started
