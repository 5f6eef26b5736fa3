"""The main job on real parts: every row once in the sink, bad rows named, and the same run id again does nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from sparkscore.errors import SparkscoreError
from sparkscore.run import attempt
from tests.run.conftest import delta_rows, expected_score, write_rows
from tests.scoring import graphs

pytestmark = pytest.mark.spark


def test_every_row_is_in_the_sink_once_with_its_score_or_its_error(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 24_000, 6, bad=lambda i: i % 1000 == 7)
    run = pipeline().run(spark, run_id="r1")

    rows = delta_rows(tmp_path / "out").to_pylist()
    assert Counter(r["id"] for r in rows) == Counter(range(24_000))
    for row in rows:
        bad = row["id"] % 1000 == 7
        assert row["_ss"]["status"] == ("error" if bad else "ok")
        assert row["score"] == (None if bad else expected_score(row["id"]))
    assert {r["_ss"]["error_code"] for r in rows} == {None, "SPS-ROW-NULL"}

    summary = run.summary()
    assert (summary.state, summary.exit_code) == ("SUCCEEDED", 0)
    assert (summary.planned_rows, summary.ok_rows, summary.quarantined_rows) == (24_000, 23_976, 24)
    assert summary.quarantined_by_code == {"SPS-ROW-NULL": 24}
    assert summary.providers.keys() == {"CPUExecutionProvider"}
    assert run.failures().count() == 24
    assert run.scores().count() == 23_976


def test_the_model_runs_once_a_row_also_with_a_second_reader(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 24_000, 6)
    run = pipeline().run(spark, run_id="r1")
    before = _receipts(tmp_path)
    run.scores().count()
    run.scores().where("score > 1").count()
    assert _receipts(tmp_path) == before
    assert sum(r["rows_called"] for r in before) == 24_000 == sum(r["rows_scored"] for r in before)


def test_the_same_run_id_again_is_a_no_op_that_says_so(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 12_000, 3)
    first = pipeline().run(spark, run_id="r1")
    files = sorted(p.name for p in (tmp_path / "out").rglob("*.parquet"))
    again = pipeline().run(spark, run_id="r1")
    assert again.summary().repeated
    assert "already finished" in str(again.summary())
    assert again.summary().ok_rows == first.summary().ok_rows
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.parquet")) == files


def test_units_and_quarantine_and_runs_are_tables(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 60_000, 30, bad=lambda i: i in (5, 59_999))
    run = pipeline().run(spark, run_id="r1")
    tables = tmp_path / "out_ledger" / "tables"

    units = delta_rows(tables / "units").sort_by("unit_seq").to_pylist()
    assert len(units) == run.summary().units > 5
    assert sum(u["ok_rows"] + u["quarantined_rows"] for u in units) == 60_000
    assert all(u["state"] == "COMMITTED" and u["output_files"] for u in units)
    assert run.units().count() == len(units)

    quarantine = delta_rows(tables / "quarantine").to_pylist()
    assert sorted(dict(q["keys"])["id"] for q in quarantine) == ["5", "59999"]
    assert all(q["source_pointer"].startswith("file:/") and "#" in q["source_pointer"] for q in quarantine)
    assert all(q["payload"] is None and q["payload_sha256"] for q in quarantine)

    (runs,) = delta_rows(tables / "runs").to_pylist()
    assert (runs["state"], runs["balance_ok"], runs["balance_basis"]) == ("SUCCEEDED", True, "footer")


def test_a_changed_pipeline_under_a_used_run_id_is_refused(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 1_000, 1)
    pipeline().run(spark, run_id="r1")
    with pytest.raises(SparkscoreError, match="SPS-RUN-CHANGED") as caught:
        pipeline(keep=["id", "a"]).run(spark, run_id="r1")
    assert caught.value.exit_code == 2


def test_a_broken_budget_stops_after_the_unit_and_a_mended_one_resumes(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 60_000, 30, bad=lambda i: 20_000 <= i < 23_000)
    with pytest.raises(SparkscoreError, match="SPS-BUDGET") as caught:
        pipeline().run(spark, run_id="r1")
    assert caught.value.exit_code == 6
    committed = delta_rows(tmp_path / "out").num_rows
    assert committed < 60_000
    tables = tmp_path / "out_ledger" / "tables"
    (failed,) = delta_rows(tables / "runs").to_pylist()
    assert (failed["state"], failed["error_code"], failed["exit_code"]) == ("FAILED", "SPS-BUDGET", 6)
    assert "FAILED" in delta_rows(tables / "units")["state"].to_pylist()

    run = pipeline(on_error={"max_fraction": 0.15}).run(spark, run_id="r1")
    summary = run.summary()
    assert (summary.attempt, summary.quarantined_rows, summary.ok_rows) == (2, 3_000, 57_000)
    assert summary.reused_units > 0
    assert set(delta_rows(tables / "units")["state"].to_pylist()) == {"COMMITTED"}
    ids = delta_rows(tmp_path / "out")["id"]
    assert len(ids) == pc.count_distinct(ids).as_py() == 60_000


def test_short_units_share_a_proof_and_a_breach_stops_the_run_after_its_unit_all_the_same(
    spark, pipeline, tmp_path: Path, monkeypatch
) -> None:
    proved = []
    prove = attempt.prove
    monkeypatch.setattr(attempt, "prove", lambda *args: (proved.append([c.unit_seq for c in args[2]]), prove(*args))[1])
    monkeypatch.setattr(attempt, "_PROOF_EVERY_S", 1e9)
    write_rows(tmp_path / "in", 40_000, 4, bad=lambda i: 10_000 <= i < 10_250)
    with pytest.raises(SparkscoreError, match=r"SPS-BUDGET.*250 of 20000"):  # 1.25 % so far, 0.6 % of the run
        pipeline().run(spark, run_id="r1")
    assert delta_rows(tmp_path / "out").num_rows == 20_000
    assert proved == [[0], [1]]

    run = pipeline(on_error={"max_fraction": 0.02}).run(spark, run_id="r1")
    assert proved[2:] == [[2, 3]]
    assert (run.summary().ok_rows, run.summary().quarantined_rows) == (39_750, 250)


def test_units_that_wait_for_their_proof_are_recorded_when_a_later_one_fails(
    spark, pipeline, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(attempt, "_PROOF_EVERY_S", 1e9)
    write_rows(tmp_path / "in", 40_000, 4)
    lost = tmp_path / "in" / "part-003.parquet"
    run = pipeline().run
    with pytest.raises(SparkscoreError, match="SPS-DATA-GONE"):
        run(spark, run_id="r1", progress=lambda done, *_: lost.unlink(missing_ok=True) if done == 3 else None)
    units = delta_rows(tmp_path / "out_ledger" / "tables" / "units").sort_by("unit_seq")["state"].to_pylist()
    assert units == ["COMMITTED", "COMMITTED", "COMMITTED", "FAILED"]


def test_commits_are_found_in_the_history_where_their_entries_do_not_answer(
    spark, pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparkscore.run.delta_line.own_commit", lambda *_: None)
    write_rows(tmp_path / "in", 24_000, 2)
    run = pipeline().run(spark, run_id="r1")
    assert [unit.committed_version for unit in run.units().collect()] == list(range(run.summary().units))


def test_filtered_rows_are_counted_by_step(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10_000, 2)
    prepare = [{"where": "id >= 1000"}, {"with": {"a": "a + 1"}}, {"where": "id % 2 = 0"}]
    summary = pipeline(prepare=prepare).run(spark, run_id="r1").summary()
    assert summary.filtered_rows == {"prepare[0]: id >= 1000": 1_000, "prepare[2]: id % 2 = 0": 4_500}
    assert summary.ok_rows == 4_500
    row = delta_rows(tmp_path / "out").filter(pc.field("id") == 1000).to_pylist()[0]
    assert row["score"] == expected_score(1000) + 0.5


def test_texts_that_were_cut_are_told(spark, pipeline, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    cast = graphs.helper.make_node("Cast", ["i"], ["y"], to=graphs.FLOAT)
    graph = graphs.graph([cast], [("i", graphs.INT64, ["n", "t"])], [("y", graphs.FLOAT, ["n", "t"])])
    (tmp_path / "text.onnx").write_bytes(graph)
    texts = spark.range(100).selectExpr("id", "if(id < 12, 'good good good', 'good') AS text")
    texts.write.parquet(str(tmp_path / "in"))
    inputs = {"i": {"text": "text", "tokenizer": str(tmp_path / "tokenizer.json"), "max_tokens": 2}}
    job = pipeline(model={"uri": str(tmp_path / "text.onnx")}, inputs=inputs, outputs={"y": "y[:, 0]"})
    summary = job.run(spark, run_id="r1").summary()
    assert (summary.ok_rows, summary.truncated_rows, summary.to_json()["truncated_rows"]) == (100, 12, 12)
    assert "texts cut to max_tokens: 12" in str(summary)


def test_without_keys_every_row_carries_its_address(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 100, 2)
    pipeline(keys=[]).run(spark, run_id="r1")
    pointers = [r["_ss"]["source_pointer"] for r in delta_rows(tmp_path / "out").to_pylist()]
    assert len(set(pointers)) == 100
    assert {p.rsplit("#", 1)[1] for p in pointers} == {str(i) for i in range(50)}


def _receipts(folder: Path) -> list[dict[str, int]]:
    paths = sorted((folder / "out_ledger" / "receipts").rglob("*.json"))
    return [json.loads(p.read_text()) for p in paths]
