"""The notebook's way in: lazy frames, columns in SQL, and tables without Spark."""

from __future__ import annotations

from pathlib import Path

import onnx
import pyarrow as pa
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


def test_a_loaded_model_is_the_bytes_that_it_was_with_a_vocabulary_file_too(model, tmp_path: Path) -> None:
    table = pq.read_table(write_rows(tmp_path / "local", 10, 1))
    (tmp_path / "v.txt").write_text("".join(f"{i}\n" for i in range(13)))
    inputs = {"x": ["a", {"category": "b_int", "vocabulary": str(tmp_path / "v.txt")}, "c"]}
    table = table.append_column("b_int", table["b"].cast("int64"))
    assert ss.score_local(table, model, inputs, OUTPUTS)["score"].to_pylist() == [expected_score(i) for i in range(10)]
    changed = onnx.load(model.uri)
    changed.doc_string = "other bytes, same answers"
    onnx.save(changed, model.uri)
    for fed in (INPUTS, inputs):
        with pytest.raises(SparkscoreError, match="SPS-MODEL-DIGEST"):
            ss.score_local(table, model, fed, OUTPUTS)


def test_a_loaded_model_is_found_from_another_folder(tmp_path: Path, monkeypatch) -> None:
    linear_model(tmp_path / "linear.onnx")
    monkeypatch.chdir(tmp_path)
    model = ss.load("linear.onnx")
    monkeypatch.chdir("/")
    table = pq.read_table(write_rows(tmp_path / "local", 10, 1))
    assert ss.score_local(table, model, INPUTS, OUTPUTS)["err"].null_count == 10


def test_a_partition_of_only_bad_rows_stays_in_the_frame(spark, model) -> None:
    frame = spark.range(50_000, numPartitions=1).selectExpr("id", "float(null) AS a", "float(1) AS b", "float(1) AS c")
    scored = ss.score(frame, model, INPUTS, OUTPUTS)
    assert scored.groupBy("_ss.error_code").count().collect() == [("SPS-ROW-NULL", 50_000)]
    limit = ss.score(frame, model, INPUTS, OUTPUTS, on_error={"max_consecutive_bad_batches": 3})
    with pytest.raises(Exception, match="SPS-BUDGET"):
        limit.count()


@pytest.mark.parametrize(
    ("option", "given"),
    [("on_error", key) for key in ("max_fraction", "max_rows", "min_sample_rows", "min_ok_rows", "allow_empty")]
    + [("quarantine", "location")],
)
def test_what_only_a_run_can_keep_is_refused_without_one(model, option: str, given: str) -> None:
    with pytest.raises(SparkscoreError, match=rf"SPS-SPEC-KEY.*{option}.*{given}") as caught:
        ss.score_local(pa.table({"a": [1.0]}), model, INPUTS, OUTPUTS, **{option: {given: 1}})
    assert caught.value.context["at"] == f"{option}.{given}"
