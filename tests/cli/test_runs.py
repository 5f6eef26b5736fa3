"""Resume, discard and the quarantine's rows, through the command line with a real session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.conftest import delta_rows, write_rows

pytestmark = pytest.mark.spark


BAD = set(range(0, 24_000, 92))  # 261; of either unit over 1 %, and too few for a task to be certain of it


def _broken_run(sparkscore, pipeline_file, tmp_path: Path) -> Path:
    """A run of two units whose first was committed and broke the budget."""
    write_rows(tmp_path / "in", 24_000, 2, bad=BAD.__contains__)
    file = pipeline_file()
    assert sparkscore("score", file, "--run-id", "r1").exit_code == 6
    return file


def test_a_run_is_resumed_with_a_mended_budget(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    file = _broken_run(sparkscore, pipeline_file, tmp_path)
    told = sparkscore("runs", "resume", "r1", file, "--set", "on_error.max_fraction=0.02", "--json")
    assert told.exit_code == 0
    assert (told.json["attempt"], told.json["reused_units"]) == (2, 1)
    assert (told.json["ok_rows"], told.json["quarantined_rows"]) == (24_000 - 261, 261)
    assert sorted(delta_rows(tmp_path / "out")["id"].to_pylist()) == list(range(24_000))


def test_a_run_is_resumed_as_its_plan_recorded_it_without_the_file(
    spark, sparkscore, pipeline_file, tmp_path: Path
) -> None:
    file = _broken_run(sparkscore, pipeline_file, tmp_path)
    file.unlink()
    ledger = tmp_path / "ledger"
    told = sparkscore("runs", "resume", "r1", "--ledger", ledger, "--set", "on_error.max_fraction=0.02", "--json")
    assert (told.exit_code, told.json["reused_units"], told.json["ok_rows"]) == (0, 1, 24_000 - 261), told.err
    other = sparkscore("runs", "resume", "r1", "--ledger", ledger, "--set", "keys=[]")
    assert (other.exit_code, "SPS-RUN-CHANGED" in other.err) == (2, True)
    folded = sparkscore("ledger", "fold", ledger, "--json").json
    assert folded["rows"] == {"runs": 2, "units": 2}
    assert "rebuilt from the events of 1 runs" in sparkscore("ledger", "rebuild", ledger).out


def test_bad_rows_are_shown_of_an_open_run_and_of_a_closed_one(
    spark, sparkscore, pipeline_file, tmp_path: Path
) -> None:
    file = _broken_run(sparkscore, pipeline_file, tmp_path)
    committed = sparkscore("quarantine", "show", "r1", file, "--rows", 3, "--json").json
    assert [row["error_code"] for row in committed] == ["SPS-ROW-NULL"] * 3
    sparkscore("score", file, "--run-id", "r1", "--set", "on_error.max_fraction=0.02")
    folded = sparkscore("quarantine", "show", "r1", file, "--rows", 10_000, "--json").json
    assert {int(row["keys"]["id"]) for row in folded} == BAD
    table = sparkscore("quarantine", "show", "r1", file, "--rows", 2).out
    assert "SPS-ROW-NULL" in table
    assert len(table.splitlines()) == 4


def test_a_discarded_run_leaves_no_row_and_cannot_be_resumed(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 1000, 1, bad=lambda i: i == 7)
    file = pipeline_file()
    assert sparkscore("score", file, "--run-id", "kept").exit_code == 0
    assert sparkscore("score", file, "--run-id", "gone").exit_code == 0
    told = sparkscore("runs", "discard", "gone", file)
    assert told.exit_code == 0
    left = delta_rows(tmp_path / "out").to_pylist()
    assert {row["_ss"]["run_id"] for row in left} == {"kept"}
    assert len(left) == 1000

    states = {row["run_id"]: row["state"] for row in sparkscore("runs", "list", file, "--json").json}
    assert states == {"kept": "SUCCEEDED", "gone": "DISCARDED"}
    quarantine = delta_rows(tmp_path / "ledger" / "tables" / "quarantine").to_pylist()
    assert {row["run_id"]: row["state"] for row in quarantine} == {"kept": "open", "gone": "discarded"}
    again = sparkscore("score", file, "--run-id", "gone")
    assert (again.exit_code, "were discarded" in again.err) == (2, True)


def test_check_and_peek_answer_as_text_and_as_json(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 1000, 1, bad=lambda i: i == 2)
    file = pipeline_file()
    assert "pipeline t: can run" in sparkscore("check", file).out
    assert sparkscore("check", file, "--json").json["bad_by_code"] == {"SPS-ROW-NULL": 1}
    lines = sparkscore("peek", file, "--rows", 4).out.splitlines()
    assert lines[0].split() == ["id", "score", "error"]
    assert lines[4].split() == ["2", "SPS-ROW-NULL"]
    assert len(lines) == 6
    assert [row["id"] for row in sparkscore("peek", file, "--rows", 4, "--json").json] == [0, 1, 2, 3]
    broken = sparkscore("check", file, "--set", "model.uri=nosuch.onnx", "--json")
    assert (broken.exit_code, broken.json["code"]) == (5, "SPS-MODEL-MISSING")
