"""A sink of files on S3: its driver is killed, and the same run id again gives each row once to `read_scores`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.e2e.killing import kill_at
from tests.run.conftest import expected_score, linear_model, write_rows
from tests.servers import S3Server

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(600)]

ROWS = 20_000

# The run is resumed, and its scores are read, in one session of its own.
_AGAIN = """
import json, sys
import sparkscore as ss
from sparkscore.spark.sessions import local_session
spark = local_session("local[2,4]", {}, ["s3a://sinks/out"])
summary = ss.Pipeline.load(sys.argv[1]).run(spark, run_id="r1").summary()
scores = ss.read_scores(spark, "s3a://sinks/out").selectExpr("id", "part", "score").toPandas()
print(json.dumps({**summary.to_json(), "scores": scores.values.tolist()}))
"""


def test_a_killed_run_into_parquet_on_s3_resumes_to_each_row_once(s3: S3Server, tmp_path: Path) -> None:
    s3.bucket("sinks")
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i % 1000 == 7)
    document = {
        "version": 1,
        "name": "t",
        "source": {"format": "parquet", "location": str(tmp_path / "in")},
        "prepare": [{"with": {"part": "CAST(id % 2 AS INT)"}}],
        "model": {"uri": linear_model(tmp_path / "linear.onnx")},
        "inputs": {"x": ["a", "b", "c"]},
        "outputs": {"score": "y[:, 0]"},
        "keys": ["id"],
        "keep": ["id", "part"],
        "sink": {"format": "parquet", "location": "s3a://sinks/out", "partition_by": ["part"]},
        "ledger": str(tmp_path / "ledger"),
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "sparkscore", "score", str(tmp_path / "p.yaml"), "--run-id", "r1", "--json"]
    manifests = s3.folder / "sinks" / "out" / "_manifests" / "r1"
    kill_at(command, manifests, 1, within_s=200)
    assert not (manifests / "run.json").exists()

    again = [sys.executable, "-c", _AGAIN, str(tmp_path / "p.yaml")]
    done = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["state"], found["reused_units"] >= 1, found["quarantined_rows"]) == ("SUCCEEDED", True, 20)
    good = {i: (i % 2, expected_score(i)) for i in range(ROWS) if i % 1000 != 7}
    assert Counter(int(row[0]) for row in found["scores"]) == Counter(list(good))
    assert {int(i): (int(part), score) for i, part, score in found["scores"]} == good

    run = json.loads((manifests / "run.json").read_text())  # the same rows by a second reader, from the manifest alone
    base = s3.folder / "sinks" / "out" / run["base"]
    rows = pa.concat_tables(pq.read_table(pa.BufferReader((base / f).read_bytes())) for f in run["files"])
    assert Counter(rows["id"].to_pylist()) == Counter(range(ROWS))
