"""The notebook's way in: lazy frames, columns in SQL, and tables without Spark."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sparkscore as ss
from sparkscore.errors import SparkscoreError
from tests.run.conftest import expected_score, linear_model, write_rows

pytestmark = pytest.mark.spark

INPUTS, OUTPUTS = {"x": ["a", "b", "c"]}, {"score": "y[:, 0]"}


@pytest.fixture
def model(tmp_path: Path) -> ss.Model:
    return ss.load(linear_model(tmp_path / "linear.onnx"))


@pytest.fixture
def frame(spark, tmp_path: Path):
    return spark.read.parquet(write_rows(tmp_path / "in", 3_000, 2, bad=lambda i: i == 7))


def test_a_lazy_frame_has_the_columns_the_outputs_and_the_verdict(frame, model) -> None:
    rows = ss.score(frame, model, INPUTS, OUTPUTS).collect()
    assert len(rows) == 3_000
    for row in rows:
        assert row.score == (None if row.id == 7 else expected_score(row.id))
    (bad,) = [r for r in rows if r._ss.status == "error"]
    assert (bad.id, bad._ss.stage, bad._ss.error_code) == (7, "pre", "SPS-ROW-NULL")


@pytest.mark.parametrize("form", ["arrow", "pandas"])
def test_a_column_function_scores_from_sql(spark, frame, model, form: str) -> None:
    schema = "a float, b float, c float"
    function = ss.score_udf(model, INPUTS, OUTPUTS, schema=schema, form=form)
    assert not function.deterministic
    spark.udf.register("linear", function)
    frame.createOrReplaceTempView("rows")
    rows = spark.sql("SELECT id, s.score, s.err.error_code FROM (SELECT id, linear(a, b, c) AS s FROM rows)").collect()
    assert {r.id: r.score for r in rows} == {i: None if i == 7 else expected_score(i) for i in range(3_000)}
    assert [(r.id, r.error_code) for r in rows if r.error_code] == [(7, "SPS-ROW-NULL")]


def test_a_table_is_scored_without_spark_to_the_same_values(model, tmp_path: Path) -> None:
    table = pq.read_table(write_rows(tmp_path / "local", 3_000, 2, bad=lambda i: i == 7))
    scored = ss.score_local(table, model, INPUTS, OUTPUTS)
    assert scored["score"].to_pylist() == [None if i == 7 else expected_score(i) for i in table["id"].to_pylist()]
    assert scored["err"].null_count == 2_999


def test_bad_arguments_are_refused_before_a_row_is_read(frame, model) -> None:
    with pytest.raises(SparkscoreError, match="SPS-SPEC-COLUMN"):
        ss.score(frame, model, {"x": ["a", "b", "nowhere"]})
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-KEY.*batchsize"):
        ss.score(frame, model, INPUTS, batchsize=3)
