"""Which tables are leased, and what a run does when another one keeps a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.lease import Lease
from sparkscore.ledger.store import LocalStore
from sparkscore.run import delta_line, folding
from sparkscore.run.leasing import lease_of, takes_several_writers
from tests.run.conftest import delta_rows, write_rows

pytestmark = pytest.mark.spark

ROWS = 2_000


@pytest.mark.parametrize(
    ("location", "name", "value", "several"),
    [
        ("/lake/out", "spark.delta.logStore.s3a.impl", "io.delta.storage.S3DynamoDBLogStore", False),
        ("file:///lake/out", "", "", False),
        ("hdfs://namenode/out", "", "", True),
        ("dbfs:/lake/out", "", "", True),
        ("s3a://lake/out", "", "", False),
        ("s3a://lake/out", "spark.delta.logStore.s3a.impl", "io.delta.storage.S3DynamoDBLogStore", True),
        ("s3://lake/out", "spark.delta.logStore.s3a.impl", "io.delta.storage.S3DynamoDBLogStore", False),
        ("s3a://lake/out", "spark.delta.logStore.class", "io.delta.storage.S3DynamoDBLogStore", True),
        ("s3a://lake/out", "spark.delta.logStore.s3a.impl", "io.delta.storage.S3SingleDriverLogStore", False),
    ],
)
def test_a_table_is_leased_where_its_store_takes_one_writer(
    spark, location: str, name: str, value: str, several: bool
) -> None:
    if name:
        spark.conf.set(name, value)
    try:
        assert takes_several_writers(spark, location) is several
    finally:
        if name:
            spark.conf.unset(name)


@pytest.mark.parametrize("text", ["ten", "-1", ""])
def test_a_waiting_time_that_is_none_is_named(spark, tmp_path: Path, monkeypatch, text: str) -> None:
    monkeypatch.setenv("SPARKSCORE_LEASE_TIMEOUT_S", text)
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-VALUE.*SPARKSCORE_LEASE_TIMEOUT_S"):
        lease_of(spark, str(tmp_path))


def test_a_run_whose_sink_another_one_keeps_ends_with_its_name_and_resumes(
    spark, pipeline, tmp_path: Path, monkeypatch
) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    monkeypatch.setenv("SPARKSCORE_LEASE_TIMEOUT_S", "0.2")
    with Lease(LocalStore(tmp_path / "out"), timeout_s=0).held():
        with pytest.raises(SparkscoreError, match=r"SPS-CLUSTER-LEASE.*out within 0\.2 s") as caught:
            pipeline().run(spark, run_id="r1")
        assert caught.value.exit_code == 8
    assert pipeline().run(spark, run_id="r1").summary().ok_rows == ROWS
    assert Counter(delta_rows(tmp_path / "out")["id"].to_pylist()) == Counter(range(ROWS))


def test_the_fold_of_a_table_that_is_kept_is_left_to_a_later_one(
    spark, pipeline, tmp_path: Path, monkeypatch, caplog
) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    monkeypatch.setattr(folding, "_LEDGER_WAIT_S", 0.2)
    tables = tmp_path / "out_ledger" / "tables"
    with Lease(LocalStore(tables / "runs"), timeout_s=0).held():
        assert pipeline().run(spark, run_id="r1").state == "SUCCEEDED"
    assert "run r1: left to a later fold of the table runs" in caplog.text
    assert not (tables / "units").exists()
    assert pipeline().run(spark, run_id="r1").summary().repeated
    assert delta_rows(tables / "runs")["state"].to_pylist() == ["SUCCEEDED"]


def test_a_unit_that_delta_refused_is_written_again(spark, pipeline, tmp_path: Path, monkeypatch) -> None:
    """Two first commits at once change the table for each other; Delta takes one."""
    write_rows(tmp_path / "in", ROWS, 1)
    write, refusals = delta_line.write_unit, [2]

    def refused_twice(*args: Any) -> None:
        refusals[0] -= 1
        if refusals[0] >= 0:
            raise error("SPS-CLUSTER-CONFLICT", "What Delta says of it: DELTA_METADATA_CHANGED.", "-")
        write(*args)

    monkeypatch.setattr(delta_line, "write_unit", refused_twice)
    assert pipeline().run(spark, run_id="r1").summary().ok_rows == ROWS
    refusals[0] = 3
    with pytest.raises(SparkscoreError, match="SPS-CLUSTER-CONFLICT"):
        pipeline().run(spark, run_id="r2")
