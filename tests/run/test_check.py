"""`check` and `peek`: what a run would meet, found on a few rows, with nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparkscore.errors import SparkscoreError
from tests.run.conftest import expected_score, write_rows

pytestmark = pytest.mark.spark


def _files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_a_check_tells_rows_model_and_bad_rows_by_code_and_writes_nothing(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 24_000, 4, bad=lambda i: i % 100 == 7)
    checked = pipeline()
    before = _files(tmp_path)
    report = checked.check(spark)
    assert _files(tmp_path) == before
    assert (report.planned_rows, report.sample_rows, report.ok_rows, report.bad_rows) == (24_000, 1000, 990, 10)
    assert report.bad_by_code == {"SPS-ROW-NULL": 10}
    assert report.bad_fraction == 0.01
    assert report.warnings == ()  # exactly 1 % passes
    assert report.inputs == {"x": "float32 (n, 3) from a, b, c"}
    assert report.outputs == {"score": "float"}
    assert report.provider == "CPUExecutionProvider"
    assert "first 1,000 rows: 990 ok, 10 bad" in str(report)
    json.dumps(report.to_json())


def test_a_budget_that_the_first_rows_break_is_a_warning(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 1000, 1, bad=lambda i: i < 20)
    (warning,) = pipeline().check(spark).warnings
    assert "2.0% of the first 1000 rows are bad" in warning


def test_keys_that_are_not_unique_are_counted(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 500, 1)
    report = pipeline(keys=["b", "c"]).check(spark)
    assert report.duplicate_key_rows == 500
    assert any("keys are not unique" in w for w in report.warnings)
    assert pipeline().check(spark).duplicate_key_rows == 0


def test_rows_that_prepare_drops_are_no_bad_rows(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 1000, 1)
    report = pipeline(prepare=[{"where": "id >= 100"}]).check(spark)
    assert (report.filtered_rows, report.ok_rows, report.bad_rows) == (100, 900, 0)


def test_a_batch_dependent_model_is_found(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 100, 1)
    mean = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0, 1], keepdims=1),
        helper.make_node("ReduceSum", ["x", "axis"], ["s"], keepdims=1),
        helper.make_node("Sub", ["s", "m"], ["y"]),
    ]
    graph = helper.make_graph(
        mean,
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "mean.onnx"))
    with pytest.raises(SparkscoreError) as raised:
        pipeline(model={"uri": str(tmp_path / "mean.onnx")}).check(spark)
    assert raised.value.code == "SPS-MODEL-BATCH"


def test_a_sink_with_another_schema_is_found(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 100, 1)
    spark.range(3).write.format("delta").save(str(tmp_path / "out"))
    with pytest.raises(SparkscoreError) as raised:
        pipeline().check(spark)
    assert raised.value.code == "SPS-SPEC-SINK"


def test_a_peek_scores_the_first_rows_with_their_errors(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 1000, 1, bad=lambda i: i == 2)
    checked = pipeline()
    before = _files(tmp_path)
    rows = checked.peek(spark, rows=5).to_pylist()
    assert [r["id"] for r in rows] == [0, 1, 2, 3, 4]
    assert [r["score"] for r in rows] == [None if i == 2 else expected_score(i) for i in range(5)]
    assert [r["err"] and r["err"]["error_code"] for r in rows] == [None, None, "SPS-ROW-NULL", None, None]
    assert _files(tmp_path) == before


def test_a_peek_at_nothing_is_an_error(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 0, 1)
    with pytest.raises(SparkscoreError) as raised:
        pipeline().peek(spark)
    assert raised.value.code == "SPS-ENV-EMPTY"
