"""The same rows from every kind of source get the same scores, bit by bit, whether they have files or are copied."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkscore.run import copying
from tests.postgres import Postgres
from tests.run.conftest import delta_rows, expected_score, write_rows

pytestmark = pytest.mark.spark

ROWS, BAD = 200, 17
SCHEMA = "id bigint, a float, b float, c float"
ROWS_IN_SQL = """CREATE TABLE tx AS SELECT i::bigint AS id, (i % 97)::float4 AS a, (i % 13)::float4 AS b,
(i % 7)::float4 AS c FROM generate_series(0, {last}) AS i; UPDATE tx SET a = NULL WHERE id = {bad};"""


class Lake:
    """The rows of one test in every form that it asks for."""

    def __init__(self, spark: Any, pg: Callable[[], Postgres], folder: Path) -> None:
        self.spark, self.pg, self.folder = spark, pg, folder
        self.rows = spark.read.parquet(write_rows(folder / "rows", ROWS, 1, bad=lambda i: i == BAD))

    def files(self, form: str, **options: str) -> str:
        place = str(self.folder / "in")
        self.rows.repartition(2).write.format(form).options(**options).save(place)
        return place

    def avro(self) -> dict[str, Any]:
        return {"format": "avro", "location": self.files("avro")}

    def json(self) -> dict[str, Any]:
        return {"format": "JSON", "location": self.files("json"), "schema": SCHEMA}  # as Spark takes it, in any case

    def xml(self) -> dict[str, Any]:
        options = {"rowTag": "row"}
        return {"format": "xml", "location": self.files("xml", **options), "schema": SCHEMA, "options": options}

    def jdbc(self) -> dict[str, Any]:
        server = self.pg()
        server.sql(ROWS_IN_SQL.format(last=ROWS - 1, bad=BAD))
        return server.source(dbtable="tx")

    def table(self, form: str, **options: str) -> dict[str, Any]:
        self.rows.write.format(form).options(**options).saveAsTable("lake.tx")
        return {"table": "lake.tx"}

    def delta_table(self) -> dict[str, Any]:
        return self.table("delta")

    def parquet_table(self) -> dict[str, Any]:
        self.rows.selectExpr("*", "id % 3 AS part").write.partitionBy("part").saveAsTable("lake.tx", format="parquet")
        return {"table": "lake.tx"}

    def csv_table(self) -> dict[str, Any]:
        return self.table("csv", header="true", sep=";")

    def view(self) -> dict[str, Any]:
        self.table("parquet")
        self.spark.sql("CREATE VIEW lake.v AS SELECT * FROM lake.tx")
        return {"table": "lake.v"}

    def moved_table(self) -> dict[str, Any]:
        """A partition elsewhere: the folders below the table's location are not its rows."""
        sql = self.spark.sql
        sql("CREATE TABLE lake.tx (id bigint, a float, b float, c float, part int) USING parquet PARTITIONED BY (part)")
        for part in (0, 1):
            place = self.folder / f"elsewhere-{part}"
            self.rows.where(f"id % 2 = {part}").write.parquet(str(place))
            sql(f"ALTER TABLE lake.tx ADD PARTITION (part={part}) LOCATION '{place}'")
        return {"table": "lake.tx"}


@pytest.fixture
def lake(spark, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    spark.sql("CREATE DATABASE lake")
    yield Lake(spark, lambda: request.getfixturevalue("pg"), tmp_path)
    spark.sql("DROP DATABASE lake CASCADE")


FILES = ["avro", "json", "delta_table", "parquet_table", "csv_table"]  # tests/run/test_formats.py has the others
COPIED = ["jdbc", "view", "moved_table", "xml"]


@pytest.mark.parametrize("kind", [*FILES, *COPIED])
def test_the_same_rows_get_the_same_scores_and_a_check_says_how_they_are_read(
    spark, pipeline, lake: Lake, tmp_path: Path, kind: str
) -> None:
    made = pipeline(source=getattr(lake, kind)())
    report = made.check(spark)
    assert (report.sample_rows, report.bad_by_code) == (ROWS, {"SPS-ROW-NULL": 1})
    assert ("copies its rows once" in report.source) == (kind in COPIED)
    assert not (tmp_path / "out_ledger").exists()

    run = made.run(spark, run_id="r1")
    rows = delta_rows(tmp_path / "out").to_pylist()
    assert Counter(_key_and_bits(r) for r in rows) == Counter(
        (i, None if i == BAD else np.float32(expected_score(i)).tobytes()) for i in range(ROWS)
    )
    assert run.summary().quarantined_by_code == {"SPS-ROW-NULL": 1}
    (bad,) = (r for r in rows if r["id"] == BAD)
    header = json.loads((tmp_path / "out_ledger" / "plans" / "r1.json").read_text())
    inputs = str(tmp_path / "out_ledger" / "inputs" / "r1")
    assert (inputs in bad["_ss"]["source_pointer"]) == (kind in COPIED) == ("copy" in header["input"])
    if kind in COPIED:
        assert (header["planned_rows"], header["balance_basis"]) == (ROWS, "footer")


def test_a_torn_copy_of_a_driver_that_died_is_never_read(
    spark, pipeline, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, copy_rows = pipeline(source=lake.view()), copying.copy_rows

    def dies(frame: Any, folder: str) -> None:
        copy_rows(frame.limit(50), f"{folder}/_temporary/0")  # as a JVM that is killed leaves it (SPARK-29037)
        raise KeyboardInterrupt

    monkeypatch.setattr(copying, "copy_rows", dies)
    with pytest.raises(KeyboardInterrupt):
        made.run(spark, run_id="r1")
    assert not (tmp_path / "out_ledger" / "plans").exists()
    monkeypatch.setattr(copying, "copy_rows", copy_rows)
    assert made.run(spark, run_id="r1").summary().planned_rows == ROWS
    assert Counter(delta_rows(tmp_path / "out")["id"].to_pylist()) == Counter(range(ROWS))
    assert len(list((tmp_path / "out_ledger" / "inputs" / "r1").iterdir())) == 2


def _key_and_bits(row: dict[str, Any]) -> tuple[int, bytes | None]:
    return row["id"], None if row["score"] is None else np.float32(row["score"]).tobytes()
