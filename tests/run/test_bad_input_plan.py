"""What is wrong before a row is scored: one clear error each, with what was expected, what was got, and the fix."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkscore.errors import SparkscoreError
from tests.run.conftest import delta_rows, write_rows

pytestmark = pytest.mark.spark

CSV = {"format": "csv", "schema": "id bigint, a float, b float, c float", "options": {"header": "true"}}


@pytest.fixture
def refusal(spark, pipeline, tmp_path: Path):
    """Plan the pipeline, which must be refused, and give the error; nothing may be written."""

    def plan(code: str, exit_code: int, **keys) -> SparkscoreError:
        with pytest.raises(SparkscoreError) as caught:
            pipeline(**keys).run(spark, run_id="r1")
        found = caught.value
        assert (found.code, found.exit_code) == (code, exit_code), str(found)
        assert "Expected " in found.message or " wants " in found.message, found.message
        assert found.fix
        assert not (tmp_path / "out_ledger" / "plans" / "r1.json").exists()
        return found

    return plan


# -- the source as a place -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "delta", "csv"])
def test_a_source_that_is_not_there_is_named(refusal, tmp_path: Path, kind: str) -> None:
    options = CSV if kind == "csv" else {"format": kind}
    found = refusal("SPS-ENV-SOURCE", 4, source={**options, "location": str(tmp_path / "nowhere")})
    assert "nowhere" in str(found)


def test_a_folder_without_files_is_no_source(refusal, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert str(tmp_path / "in") in str(refusal("SPS-ENV-SOURCE", 4))


def test_a_folder_of_parquet_files_that_is_no_delta_table_is_no_delta_source(refusal, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    found = refusal("SPS-ENV-SOURCE", 4, source={"format": "delta", "location": str(tmp_path / "in")})
    assert "no Delta table" in found.message


def test_the_debris_of_a_dead_writer_stops_the_run(refusal, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    (tmp_path / "in" / "_temporary").mkdir()
    assert "_temporary" in refusal("SPS-ENV-SOURCE", 4).message


def test_a_delta_table_is_not_read_as_its_files(refusal, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    (tmp_path / "in" / "_delta_log").mkdir()
    assert "Got a Delta table" in refusal("SPS-ENV-SOURCE", 4).message


def test_files_without_a_row_are_an_empty_source_unless_that_is_allowed(spark, refusal, pipeline, tmp_path) -> None:
    write_rows(tmp_path / "in", 0, 2)
    assert "2 files without a row" in refusal("SPS-ENV-EMPTY", 4).message
    run = pipeline(on_error={"allow_empty": True}).run(spark, run_id="r2")
    assert (run.state, run.exit_code, run.summary().ok_rows, run.summary().units) == ("SUCCEEDED", 0, 0, 0)


def test_csv_files_of_headers_alone_are_an_empty_source(spark, pipeline, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.csv").write_text("id,a,b,c\n")
    with pytest.raises(SparkscoreError) as caught:
        pipeline(source={**CSV, "location": str(tmp_path / "in")}).run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-ENV-EMPTY", 4)


def test_a_delta_version_that_is_not_there_is_named(spark, refusal, tmp_path: Path) -> None:
    spark.range(3).selectExpr("id", "id a", "id b", "id c").write.format("delta").save(str(tmp_path / "in"))
    source = {"format": "delta", "location": str(tmp_path / "in")}
    assert "7" in refusal("SPS-ENV-SOURCE", 4, source={**source, "version": 7}).message
    early = refusal("SPS-ENV-SOURCE", 4, source={**source, "timestamp": "2001-01-01"})
    assert "2001-01-01" in early.message


# -- columns -------------------------------------------------------------------------------------------


def test_a_missing_column_is_named_with_the_near_ones(refusal, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"id": [1], "amount": [1.0], "b": [1.0], "c": [1.0]}), folder / "x.parquet")
    found = refusal("SPS-SPEC-COLUMN", 2, inputs={"x": ["amuont", "b", "c"]})
    assert "amuont" in found.message
    assert "'amount'" in found.fix or "amount" in found.fix
    assert "near" not in found.fix


def test_a_column_whose_type_cannot_feed_the_tensor_is_refused_with_both_types(refusal, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"id": [1], "a": ["1.0"], "b": [1.0], "c": [1.0]}), folder / "x.parquet")
    found = refusal("SPS-SPEC-TYPE", 2)
    assert "string" in found.message
    assert "float32" in found.message


def test_an_output_or_input_that_the_graph_lacks_is_refused_with_what_it_has(refusal, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    assert "y" in refusal("SPS-SPEC-OUTPUT", 2, outputs={"score": "z[:, 0]"}).message
    assert "x" in refusal("SPS-SPEC-INPUT", 2, inputs={"w": ["a", "b", "c"]}).message


def test_a_file_that_lacks_a_column_or_has_it_in_another_type_is_named_with_it(refusal, tmp_path: Path) -> None:
    folder = Path(write_rows(tmp_path / "in", 100, 4))
    lacking = folder / "part-002.parquet"
    pq.write_table(pq.read_table(lacking).drop_columns("b"), lacking)
    found = refusal("SPS-DATA-COLUMN", 6)
    assert "column b" in found.message
    assert found.context["file"].endswith("part-002.parquet")

    other = pq.read_table(folder / "part-001.parquet")
    pq.write_table(other.set_column(2, "b", other["b"].cast(pa.string())), lacking)
    found = refusal("SPS-DATA-COLUMN", 6)
    assert "column b is string, planned as float" in found.message
    assert found.context["file"].endswith("part-002.parquet")


def test_a_column_that_an_older_file_of_a_delta_table_lacks_is_null(spark, pipeline, tmp_path: Path) -> None:
    place = str(tmp_path / "in")
    spark.range(5).selectExpr("id", "float(1) a", "float(1) b").write.format("delta").save(place)
    newer = spark.range(5, 20).selectExpr("id", "float(1) a", "float(1) b", "float(2) c")
    newer.write.format("delta").mode("append").option("mergeSchema", "true").save(place)
    inputs = {"x": ["a", "b", {"column": "c", "null": "fill", "fill": 4}]}
    pipeline(source={"format": "delta", "location": place}, inputs=inputs).run(spark, run_id="r1")
    scores = {r["id"]: r["score"] for r in delta_rows(tmp_path / "out").to_pylist()}
    assert scores == {i: 0.25 + 0.125 * (4 if i < 5 else 2) for i in range(20)}


def test_unsigned_columns_are_read_as_the_next_type_of_spark_and_are_no_drift(spark, pipeline, tmp_path: Path) -> None:
    kinds = {"a": pa.uint8(), "b": pa.uint16(), "c": pa.uint32(), "d": pa.uint64()}
    values = {name: [0, 1, 2**kind.bit_width - 1] for name, kind in kinds.items()}
    columns = {name: pa.array(values[name], kind) for name, kind in kinds.items()}
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": [0, 1, 2], **columns}), tmp_path / "in" / "x.parquet")
    prepare = [{"with": {"e": "double(d) / 18446744073709551615"}}]
    pipeline(prepare=prepare, inputs={"x": ["a", "b", "e"]}, keep=["id", "c", "d"]).run(spark, run_id="r1")
    rows = sorted(delta_rows(tmp_path / "out").to_pylist(), key=lambda r: r["id"])
    assert [r["score"] for r in rows] == [0, 0.5 - 0.25, 0.5 * 255 - 0.25 * 65_535 + 0.125]
    assert [[r["c"] for r in rows], [int(r["d"]) for r in rows]] == [values["c"], values["d"]]


# -- prepare -------------------------------------------------------------------------------------------


def test_a_prepare_expression_over_a_column_that_is_not_there_names_the_step(refusal, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    found = refusal("SPS-SPEC-COLUMN", 2, prepare=[{"where": "a > 0"}, {"with": {"d": "a + nowhere"}}])
    assert "prepare[1].with.d" in str(found)
    assert "a + nowhere" in found.message
    assert "`a`" in found.message
    assert "_ss_" not in str(found)
    found = refusal("SPS-SPEC-COLUMN", 2, prepare=[{"drop": ["bb"]}])
    assert "bb" in found.message


def test_a_predicate_of_the_source_over_a_column_that_is_not_there_names_it(refusal, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    source = {"format": "parquet", "location": str(tmp_path / "in"), "where": "nowhere = 1"}
    assert "source.where" in str(refusal("SPS-SPEC-COLUMN", 2, source=source))


# -- the sink ------------------------------------------------------------------------------------------


def test_a_sink_that_forgets_transactions_is_refused(spark, refusal, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    pipeline().run(spark, run_id="r0")
    table = f"delta.`{tmp_path / 'out'}`"
    interval = "'delta.setTransactionRetentionDuration' = 'interval 1 days'"
    spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ({interval})")
    assert "setTransactionRetentionDuration" in refusal("SPS-ENV-SINK", 4).message
    found = refusal("SPS-SPEC-SINK", 2, keep=["id", "a"])
    assert "column a" in found.message


def test_a_sink_whose_vacuum_would_take_files_of_an_open_unit_is_refused(spark, refusal, pipeline, tmp_path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    pipeline().run(spark, run_id="r0")
    name = "delta.deletedFileRetentionDuration"
    for kept in ("interval 23 hours", "interval 1 days"):
        spark.sql(f"ALTER TABLE delta.`{tmp_path / 'out'}` SET TBLPROPERTIES ('{name}' = '{kept}')")
        if kept == "interval 23 hours":
            assert f"{name} = {kept}" in refusal("SPS-ENV-SINK", 4).message
    assert pipeline().run(spark, run_id="r2").summary().exit_code == 0  # a day is enough


def test_a_sink_that_is_a_folder_of_other_files_is_refused(refusal, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    write_rows(tmp_path / "out", 10, 1)
    found = refusal("SPS-SPEC-SINK", 2)
    assert str(tmp_path / "out") in found.message


@pytest.mark.parametrize("column", ["day", "b", "_ss"])
def test_a_partition_column_that_the_sink_will_not_have_is_refused(spark, refusal, pipeline, tmp_path, column) -> None:
    write_rows(tmp_path / "in", 10, 1)
    sink = {"format": "delta", "location": str(tmp_path / "out"), "partition_by": [column]}
    found = refusal("SPS-SPEC-SINK", 2, sink=sink)
    assert column in found.message
    assert found.context["where"] == "sink.partition_by"
    with pytest.raises(SparkscoreError, match="SPS-SPEC-SINK"):
        pipeline(sink=sink).check(spark)


def test_a_partition_column_is_found_whatever_its_case(spark, pipeline, refusal, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    sink = {"format": "delta", "location": str(tmp_path / "out"), "partition_by": ["B"]}
    pipeline(sink=sink, keep=["id", "b"]).run(spark, run_id="r0")
    pipeline(sink=sink | {"partition_by": ["b"]}, keep=["id", "b"]).run(spark, run_id="r2")
    assert delta_rows(tmp_path / "out").num_rows == 20
    found = refusal("SPS-SPEC-SINK", 2, sink=sink | {"partition_by": ["id"]}, keep=["id", "b"])
    assert "partitioned by b" in found.message
