"""Sources without files, and tables, that are not what a pipeline says: each costs one clear error, and no secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from tests.postgres import PASSWORD, Postgres
from tests.run.conftest import delta_rows, write_rows

pytestmark = pytest.mark.spark

TX = """CREATE TABLE tx AS SELECT i::bigint AS id, 1::float4 AS a, 2::float4 AS b, 3::float4 AS c
FROM generate_series(0, 9) AS i;"""


def refusal(call: Callable[[], Any]) -> SparkscoreError:
    with pytest.raises(SparkscoreError) as caught:
        call()
    error = caught.value
    assert PASSWORD not in f"{error!s} {error.context} {error.__cause__}"
    return error


@pytest.mark.parametrize(
    ("changes", "code", "exit_code", "says"),
    [
        ({"dbtable": "txx"}, "SPS-ENV-SOURCE", 4, 'relation "txx" does not exist'),
        ({"dbtable": None, "query": "SELECT nothing FROM tx"}, "SPS-ENV-SOURCE", 4, "options.query"),
        ({"dbtable": None, "query": "SELECT id, a, id FROM tx"}, "SPS-SPEC-COLUMN", 2, "`id`"),
        ({"user": "nobody_of_this_name"}, "SPS-ENV-ACCESS", 4, "authentication failed"),
        ({"url": "jdbc:postgresql://127.0.0.1:1/lake"}, "SPS-CLUSTER-STORAGE", 8, "host and port"),
        ({"driver": "org.mariadb.jdbc.Driver"}, "SPS-ENV-PACKAGE", 4, "SPARKSCORE_JARS"),
        ({"driver": None, "url": "jdbc:mariadb://127.0.0.1/lake"}, "SPS-ENV-PACKAGE", 4, "--jars of spark-submit"),
    ],
    ids=str,
)
def test_a_database_that_cannot_be_read_is_refused_with_its_reason(
    spark, pipeline, pg: Postgres, changes: dict[str, str | None], code: str, exit_code: int, says: str
) -> None:
    pg.sql(TX)
    source = pg.source(dbtable="tx")
    source["options"] = {k: v for k, v in {**source["options"], **changes}.items() if v is not None}
    error = refusal(lambda: pipeline(source=source).check(spark))
    assert (error.code, error.exit_code) == (code, exit_code)
    assert says in str(error)


def test_a_password_that_is_not_set_or_wrong_is_named_by_its_variable(spark, pipeline, pg, monkeypatch) -> None:
    pg.sql(TX)
    monkeypatch.setenv("TX_PASSWORD", "not/the+word")
    error = refusal(lambda: pipeline(source=pg.source(dbtable="tx")).run(spark, run_id="r1"))
    assert (error.code, error.exit_code) == ("SPS-ENV-ACCESS", 4)
    assert "not/the+word" not in f"{error!s} {error.__cause__}"
    monkeypatch.delenv("TX_PASSWORD")
    error = refusal(lambda: pipeline(source=pg.source(dbtable="tx")).run(spark, run_id="r1"))
    assert error.code == "SPS-ENV-ACCESS"
    assert "TX_PASSWORD" in str(error)


def test_a_table_without_rows_is_an_error_unless_it_is_allowed(spark, pipeline, pg: Postgres, tmp_path: Path) -> None:
    pg.sql(TX)
    made = pipeline(source={**pg.source(dbtable="tx"), "where": "id > 100"})
    assert refusal(lambda: made.check(spark)).code == "SPS-ENV-EMPTY"
    error = refusal(lambda: made.run(spark, run_id="r1"))
    assert error.code == "SPS-ENV-EMPTY"
    assert "jdbc tx" in str(error)
    allowed = pipeline(source={**pg.source(dbtable="tx"), "where": "id > 100"}, on_error={"allow_empty": True})
    assert allowed.run(spark, run_id="r2").summary().ok_rows == 0


def test_a_table_that_vanishes_after_its_check_is_no_run(spark, pipeline, pg: Postgres, tmp_path: Path) -> None:
    pg.sql(TX)
    made = pipeline(source=pg.source(dbtable="tx"))
    assert made.check(spark).ok_rows == 10
    pg.sql("DROP TABLE tx")
    assert refusal(lambda: made.run(spark, run_id="r1")).code == "SPS-ENV-SOURCE"
    assert not (tmp_path / "out_ledger" / "plans").exists()


def test_types_of_postgres_are_copied_as_spark_reads_them(spark, pipeline, pg: Postgres, tmp_path: Path) -> None:
    columns = "f float8[], j json, u uuid, n numeric, i interval, t timestamptz"
    values = "'{1,2,3}', '{}', '00000000-0000-0000-0000-000000000001', 0.5, '1 day', '2026-11-24 12:00+00'"
    pg.sql(f"CREATE TABLE tx (id bigint, {columns}); INSERT INTO tx VALUES (1, {values})")
    made = pipeline(source=pg.source(dbtable="tx"), inputs={"x": "f"}, keep=["id", "j", "u", "n", "i", "t"])
    (warning,) = made.check(spark).warnings
    assert "column n (decimal(38,18)) may lose digits" in warning
    made.run(spark, run_id="r1")
    (row,) = delta_rows(tmp_path / "out").to_pylist()
    assert (row["score"], row["u"][-1], str(row["n"])[:3], row["t"].isoformat()) == (
        *(0.5 - 0.5 + 0.375, "1", "0.5"),
        "2026-11-24T12:00:00+00:00",
    )


def test_a_value_that_spark_cannot_read_ends_the_copy_without_being_told(
    spark, pipeline, pg: Postgres, tmp_path: Path
) -> None:
    pg.sql(f"{TX} ALTER TABLE tx ALTER COLUMN a TYPE numeric; UPDATE tx SET a = 'NaN' WHERE id = 7")
    made = pipeline(source=pg.source(dbtable="tx"))
    for call in (lambda: made.check(spark), lambda: made.run(spark, run_id="r1")):
        error = refusal(call)
        assert (error.code, error.exit_code) == ("SPS-DATA-SOURCE", 6)
        assert "Bad value for type BigDecimal" in str(error)
        assert "NaN" not in str(error)
    query = "SELECT id, a::float8, b, c FROM tx"  # as the error's fix says
    mended = pipeline(source=pg.source(query=query), on_error={"max_fraction": 0.5}, missing={"nan": "error"})
    assert mended.run(spark, run_id="r2").summary().quarantined_by_code == {"SPS-ROW-NAN": 1}


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ({"table": "lake.txx"}, "SPS-ENV-SOURCE", "source.table"),
        ({"table": "lake tx; DROP TABLE lake.tx"}, "SPS-SPEC-VALUE", "the name of a table"),
        ({"table": "lake.tx", "format": "delta"}, "SPS-SPEC-VALUE", "Got csv"),
        ({"table": "lake.tx", "version": 1}, "SPS-SPEC-VALUE", "only for a Delta table"),
        ({"table": "lake.dropping"}, "SPS-SPEC-VALUE", "Option 'mode' is refused"),
        ({"table": "lake.intervals"}, "SPS-SPEC-TYPE", "i of type interval"),
        ({"format": "parqet", "location": "/in"}, "SPS-SPEC-VALUE", "Did you mean 'parquet'"),
        ({"format": "mongodb", "options": {"collection": "tx"}}, "SPS-ENV-PACKAGE", "SPARKSCORE_JARS"),
    ],
    ids=str,
)
def test_a_table_or_format_that_is_not_what_it_is_said_to_be(
    spark, pipeline, lake: Path, source: dict[str, Any], code: str, says: str
) -> None:
    error = refusal(lambda: pipeline(source=source).check(spark))
    assert error.code == code
    assert says in str(error)


def test_a_malformed_line_of_a_csv_table_is_a_bad_row(spark, pipeline, lake: Path) -> None:
    report = pipeline(source={"table": "lake.tx"}, on_error={"max_fraction": 0.9}).check(spark)
    assert (report.ok_rows, report.bad_by_code) == (1, {"SPS-ROW-DECODE": 1})


@pytest.fixture
def lake(spark, tmp_path: Path) -> Any:
    """A catalog with a CSV table of two lines, one of them malformed, the same without a word, and a view."""
    columns = "id bigint, a float, b float, c float"
    place = tmp_path / "lines"
    place.mkdir()
    (place / "rows.csv").write_text("1,1,2,3\n2,what,2,3\n")
    spark.sql("CREATE DATABASE lake")
    spark.sql(f"CREATE TABLE lake.tx ({columns}) USING csv LOCATION '{place}'")
    spark.sql(f"CREATE TABLE lake.dropping ({columns}) USING csv OPTIONS (mode 'DROPMALFORMED') LOCATION '{place}'")
    spark.sql("CREATE VIEW lake.intervals AS SELECT 1 AS id, 1.0 AS a, 1.0 AS b, 1.0 AS c, make_interval(1) AS i")
    yield place
    spark.sql("DROP DATABASE lake CASCADE")


def test_a_damaged_avro_file_and_one_without_a_column_are_named(spark, pipeline, tmp_path: Path) -> None:
    rows = spark.read.parquet(write_rows(tmp_path / "rows", 10, 1))
    for name, frame in (("good", rows), ("short", rows.drop("c"))):
        frame.coalesce(1).write.format("avro").save(str(tmp_path / name))
        (found,) = (tmp_path / name).glob("*.avro")
        (tmp_path / "in").mkdir(exist_ok=True)
        found.rename(tmp_path / "in" / f"{name}.avro")
    schema = "id bigint, a float, b float, c float"
    made = pipeline(source={"format": "avro", "location": str(tmp_path / "in"), "schema": schema})
    error = refusal(lambda: made.check(spark))
    assert error.code == "SPS-DATA-COLUMN"
    assert "short.avro: column c" in str(error)
    (tmp_path / "in" / "short.avro").write_bytes(b"Obj\x01\x04")
    assert refusal(lambda: made.check(spark)).code == "SPS-DATA-FILE"
