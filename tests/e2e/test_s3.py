"""A pipeline whose source, model, sink, quarantine and ledger are all on a real S3-compatible server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import DeltaTable

from sparkscore.run.pipeline import Pipeline
from sparkscore.runtime import files
from tests.e2e.killing import kill_at
from tests.e2e.scenario import bad_rows, document, put_up, scored_rows
from tests.servers import S3Server, s3_server

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(600)]

ROWS, UNITS, EVERY = 20_000, 2, 1_000  # a file of 10,000 rows is a unit; one row in a thousand is bad


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.bucket("lake")
        yield server


def test_a_run_on_s3_that_is_killed_resumes_to_the_bits_of_a_run_on_a_disk(spark, s3: S3Server, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    put_up(disk, ROWS, UNITS, EVERY, "s3://lake")
    Pipeline.load(document(str(disk))).run(spark, run_id="r1")

    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document("s3a://lake")))
    command = [sys.executable, "-m", "sparkscore", "score", str(tmp_path / "p.yaml"), "--run-id", "r1", "--json"]
    kill_at(command, "s3://lake/out/_delta_log", 1, within_s=200)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

    summary = json.loads(done.stdout)
    assert (summary["ok_rows"], summary["quarantined_rows"], summary["attempt"]) == (ROWS - 20, 20, 2)
    assert summary["reused_units"] >= 1
    assert scored_rows(_table("s3://lake/out", s3)) == scored_rows(_table(disk / "out"))
    assert scored_rows(_by_pyarrow(s3)) == scored_rows(_table(disk / "out"))
    assert bad_rows(_table("s3://lake/bad", s3)) == bad_rows(_table(disk / "bad"))
    assert "SUCCEEDED" in _table("s3://lake/ledger/tables/runs", s3)["state"].to_pylist()


def test_wrong_keys_end_a_run_with_one_clear_error_that_shows_no_secret(s3: S3Server, tmp_path: Path) -> None:
    """The source is a Delta table, so it is Spark's own S3A that is refused; the ledger's refusal is a test of it."""
    source = {"format": "delta", "location": "s3a://lake/table"}
    sink = {"format": "delta", "location": str(tmp_path / "out")}
    pipeline = document("s3a://lake", source=source, sink=sink, ledger=str(tmp_path / "ledger"))
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(pipeline))
    command = [sys.executable, "-m", "sparkscore", "score", str(tmp_path / "p.yaml"), "--run-id", "r1"]
    wrong = {**os.environ, "AWS_SECRET_ACCESS_KEY": "canary"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=wrong)
    assert done.returncode == 4, done.stderr[-2000:]
    assert done.stderr.count("[SPS-") == 1
    assert "[SPS-ENV-ACCESS]" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def _table(place: str | Path, s3: S3Server | None = None) -> pa.Table:
    return DeltaTable(str(place), storage_options=_options(s3) if s3 else None).to_pyarrow_table()


def _options(s3: S3Server) -> dict[str, str]:
    return {**s3.environment, "AWS_ALLOW_HTTP": "true"}


def _by_pyarrow(s3: S3Server) -> pa.Table:
    """The same rows from the data files alone."""
    uris = DeltaTable("s3://lake/out", storage_options=_options(s3)).file_uris()
    return pa.concat_tables(pq.read_table(pa.BufferReader(files.read_bytes(uri))) for uri in uris)
