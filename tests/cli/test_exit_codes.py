"""Each exit code comes out of the command line, and ``--result`` and the ledger give the same verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparkscore.ledger.claims import claim_run
from sparkscore.ledger.events import read_events
from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import LocalStore
from sparkscore.run.summaries import summary_of
from tests.run.conftest import write_rows

pytestmark = pytest.mark.spark

# pipeline.md §10
RESULT_KEYS = {
    *("run_id", "state", "exit_code", "code", "message", "planned_rows", "ok_rows", "quarantined_rows"),
    *("filtered_rows", "units", "model", "providers", "scan", "weights", "sink", "quarantine", "ledger"),
    *("started_at", "ended_at", "rows_per_s"),
}


def _result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert found.keys() >= RESULT_KEYS
    assert found["model"].keys() == {"uri", "version", "sha256"}
    return found


def _ledger(folder: Path, run_id: str) -> Any:
    store = LocalStore(folder / "ledger")
    plan = read_plan(store, run_id)
    return summary_of(store, plan) if plan is not None and read_events(store, run_id) else None


def _assert_verdict(folder: Path, run_id: str, exit_code: int, code: str | None, state: str) -> dict[str, Any]:
    """The same verdict, from --result and from the ledger."""
    result, recorded = _result(folder), _ledger(folder, run_id)
    assert (result["run_id"], result["exit_code"], result["code"], result["state"]) == (run_id, exit_code, code, state)
    assert (recorded.exit_code, recorded.code, recorded.state) == (exit_code, code, state)
    return result


def _score(sparkscore, file: Path, *more: object):
    return sparkscore("score", file, "--run-id", "r1", "--result", file.parent / "result.json", *more)


def test_0_a_run_with_bad_rows_under_the_limit_is_a_success(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 2000, 2, bad=lambda i: i == 7)
    told = _score(sparkscore, pipeline_file())
    assert told.exit_code == 0
    assert told.err.startswith("run r1\n")  # first of all
    assert "1,999 ok + 1 quarantined" in told.out
    assert "sparkscore quarantine show r1" in told.out  # a next command to try
    result = _assert_verdict(tmp_path, "r1", 0, None, "SUCCEEDED")
    assert (result["planned_rows"], result["ok_rows"], result["quarantined_rows"]) == (2000, 1999, 1)
    assert spark.range(3).count() == 3  # a session that the command did not make is not stopped

    again = _score(sparkscore, pipeline_file())
    assert again.exit_code == 0
    assert "already finished" in again.out


def test_3_fail_on_quarantine_wants_a_person(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 2000, 1, bad=lambda i: i == 7)
    assert _score(sparkscore, pipeline_file(), "--fail-on-quarantine").exit_code == 3
    _assert_verdict(tmp_path, "r1", 3, None, "SUCCEEDED")
    assert _score(sparkscore, pipeline_file(), "--fail-on-quarantine").exit_code == 3
    assert _score(sparkscore, pipeline_file()).exit_code == 0  # the work is committed; now nobody asked


def test_3_needs_rows_in_the_quarantine(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 100, 1)
    assert _score(sparkscore, pipeline_file(), "--fail-on-quarantine").exit_code == 0


def test_2_an_unknown_key_ends_before_anything_is_read(sparkscore, pipeline_file, tmp_path: Path) -> None:
    told = _score(sparkscore, pipeline_file(sauce={"format": "parquet"}))
    assert told.exit_code == 2
    assert "[SPS-SPEC-KEY]" in told.err
    assert "Traceback" not in told.err
    result = _result(tmp_path)
    assert (result["exit_code"], result["code"], result["state"]) == (2, "SPS-SPEC-KEY", "FAILED")
    assert not (tmp_path / "ledger").exists()


def test_2_a_column_that_the_source_lacks(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    told = _score(sparkscore, pipeline_file(inputs={"x": ["a", "b", "cc"]}))
    assert (told.exit_code, _result(tmp_path)["code"]) == (2, "SPS-SPEC-COLUMN")
    assert not (tmp_path / "out").exists()


def test_2_an_option_that_the_command_lacks(sparkscore, pipeline_file) -> None:
    told = sparkscore("score", pipeline_file(), "--nosuch")
    assert told.exit_code == 2
    assert "--nosuch" in told.err


def test_2_a_run_id_used_again_with_another_pipeline(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 100, 1)
    assert _score(sparkscore, pipeline_file()).exit_code == 0
    told = _score(sparkscore, pipeline_file(), "--set", "outputs.more=y")
    assert (told.exit_code, _result(tmp_path)["code"]) == (2, "SPS-RUN-CHANGED")
    assert _ledger(tmp_path, "r1").exit_code == 0  # the finished run stays what it is


def test_2_a_run_id_that_cannot_name_a_file(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    told = sparkscore("score", pipeline_file(), "--run-id", "../r1", "--result", tmp_path / "result.json")
    assert (told.exit_code, _result(tmp_path)["code"]) == (2, "SPS-SPEC-VALUE")


def test_4_a_source_that_is_not_there(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    told = _score(sparkscore, pipeline_file())
    assert (told.exit_code, _result(tmp_path)["code"]) == (4, "SPS-ENV-SOURCE")


def test_5_a_model_that_is_not_there(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    told = _score(sparkscore, pipeline_file(model={"uri": "nosuch.onnx"}))
    assert (told.exit_code, _result(tmp_path)["code"]) == (5, "SPS-MODEL-MISSING")


def test_5_golden_rows_that_differ_end_it_before_the_plan(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    golden = {"rows": [{"a": 1.0, "b": 0.0, "c": 0.0}], "outputs": {"score": [0.75]}}
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    told = _score(sparkscore, pipeline_file(model={"uri": "linear.onnx", "golden": "golden.json"}))
    assert (told.exit_code, _result(tmp_path)["code"]) == (5, "SPS-MODEL-GOLDEN")
    assert _ledger(tmp_path, "r1") is None


def test_6_more_bad_rows_than_the_budget(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 2000, 1, bad=lambda i: i % 10 == 0)
    told = _score(sparkscore, pipeline_file(), "--json")
    assert told.exit_code == 6
    assert told.err.count("SPS-BUDGET") == 1
    result = _assert_verdict(tmp_path, "r1", 6, "SPS-BUDGET", "FAILED")
    assert told.json == result
    assert result["message"] in told.err


def test_9_a_run_that_a_live_driver_owns(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 2000, 1, bad=lambda i: i % 10 == 0)
    assert _score(sparkscore, pipeline_file()).exit_code == 6
    store = LocalStore(tmp_path / "ledger")
    with claim_run(store, "r1", interval_s=0.2, say=lambda line: None):
        told = _score(sparkscore, pipeline_file())
    assert told.exit_code == 9
    result = _result(tmp_path)
    assert (result["exit_code"], result["code"], result["state"]) == (9, "SPS-FENCED", "FENCED")
    assert "watching its heartbeat" in told.err
    assert _ledger(tmp_path, "r1").attempt == 2  # the other driver's; this one wrote nothing


def test_8_a_model_that_never_comes_back_from_its_load(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    # Unguarded: so small a model may be loaded in time by the child of a second attempt.
    told = _score(sparkscore, pipeline_file(on_error={"load_timeout_s": 0.000001, "guard": "off"}))
    assert (told.exit_code, _result(tmp_path)["code"]) == (8, "SPS-CLUSTER-TIMEOUT")


def test_1_what_has_no_name_is_still_told_and_resumable(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    told = _score(sparkscore, pipeline_file(), "--set", "sink.options.compression=nosuch")
    assert told.exit_code == 1
    assert "Traceback" not in told.err
    _assert_verdict(tmp_path, "r1", 1, "SPS-FAILED", "FAILED")
