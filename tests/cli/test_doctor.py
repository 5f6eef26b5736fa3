"""`sparkscore doctor` with a real session, without one, and where none starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkscore.errors import error
from tests.run.conftest import write_rows


def test_without_a_pipeline_doctor_starts_no_spark(sparkscore) -> None:
    told = sparkscore("doctor", "--json")
    assert told.exit_code == 0, told.out
    assert [check["code"] for check in told.json] == [
        *("python", "onnxruntime", "provider", "packages", "java", "model-cache"),
    ]


def test_without_a_spark_that_starts_doctor_tells_that_and_goes_on(
    sparkscore, pipeline_file, tmp_path: Path, monkeypatch
) -> None:
    def no_session(*_: object) -> None:
        raise error("SPS-ENV-PACKAGE", "Spark needs Java 17 or newer.", "Install a Java.")

    monkeypatch.setattr("sparkscore.spark.sessions.local_session", no_session)
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: None)
    write_rows(tmp_path / "in", 10, 1)
    told = sparkscore("doctor", pipeline_file(), "--json")
    assert told.exit_code == 4
    verdicts = {check["code"]: check["verdict"] for check in told.json}
    assert verdicts["spark"] == "fail"
    assert verdicts["ledger"] == verdicts["sink"] == "ok"


def test_the_least_policy_is_printed_without_spark_and_says_what_it_leaves_out(sparkscore, pipeline_file) -> None:
    file = pipeline_file(ledger="s3a://ops/ledger", sink={"format": "delta", "table": "lake.scores"})
    command = ("doctor", file, "--iam", "executor", "--set", "ledger=s3a://ops/other")
    told = sparkscore(*command)
    assert told.exit_code == 0
    assert [statement["Sid"] for statement in told.json["Statement"]] == ["WriteLedger", "WriteLedgerRows"]
    assert "ops/other/receipts/*" in told.out
    assert told.err == "not in the policy: sink.table lake.scores: the catalog knows its place\n"
    assert (
        sparkscore("doctor", file, "--iam", "executor", "--set", "ledger=s3a://ops/other", "--json").json == told.json
    )

    told = sparkscore("doctor", pipeline_file(), "--iam", "driver")
    assert told.json == {"Version": "2012-10-17", "Statement": []}
    assert "no place that this pipeline tells is on S3" in told.err
    told = sparkscore("doctor", "--iam", "driver")
    assert (told.exit_code, "Expected a pipeline file with --iam" in told.err) == (2, True)


@pytest.mark.spark
def test_doctor_asks_the_workers_and_the_places_of_a_pipeline(spark, sparkscore, pipeline_file, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    file = pipeline_file()
    told = sparkscore("doctor", file, "--on-cluster", "--json")
    assert told.exit_code == 0, told.out
    found = {check["code"]: check for check in told.json}
    assert {"jars", "attempts", "retention", "receipts", "open-runs"} <= set(found)
    assert "workers agree" in found["python"]["found"]
    assert "Scala 2.13" in found["jars"]["found"]
    assert [check for check in found.values() if check["verdict"] != "ok"] == []

    sparkscore("score", file, "--run-id", "r1")
    name = "delta.setTransactionRetentionDuration"
    spark.sql(f"ALTER TABLE delta.`{tmp_path / 'out'}` SET TBLPROPERTIES ('{name}' = 'interval 1 days')")
    red = sparkscore("doctor", file)
    assert red.exit_code == 4
    assert "fail  retention" in red.out
    assert "docs/doctor.md#retention" in red.out
