"""Sinks that stage on S3, and a source that is copied there: kill and resume, and what their policies allow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sparkscore.run.doctor.iam import policy
from sparkscore.spec.pipeline import load_pipeline
from tests.e2e.iam import outside, used
from tests.e2e.killing import kill_at
from tests.e2e.scenario import document, put_up
from tests.faults import faulty_proxy
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


# Each pipeline in a session whose executors have an endpoint of their own.
_ON_A_CLUSTER = """
import json, sys
import sparkscore as ss
from sparkscore.spark.sessions import local_session
conf = {"spark.executorEnv.AWS_ENDPOINT_URL": sys.argv[1], "spark.hadoop.fs.s3a.endpoint": "${env.AWS_ENDPOINT_URL}"}
conf["spark.executorEnv.SPARKSCORE_CACHE"] = sys.argv[2]
spark = local_session("local-cluster[1,2,1024]", conf, ["s3a://sinks"])
spark.read.parquet("s3a://lake/team/in").createOrReplaceTempView("rows_of_it")
for pipeline in sys.argv[3:]:
    print(ss.Pipeline.load(pipeline).run(spark, run_id="r1").summary().state)
"""


@pytest.mark.turn(2, 3)
def test_a_killed_run_into_parquet_on_s3_resumes_to_each_row_once(s3: S3Server, tmp_path: Path) -> None:
    s3.bucket("sinks")
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i % 1000 == 7)
    pipeline = {
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
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(pipeline))
    manifests = s3.folder / "sinks" / "out" / "_manifests" / "r1"
    with faulty_proxy(s3.endpoint) as proxy:
        python = ["env", f"AWS_ENDPOINT_URL={proxy.endpoint}", sys.executable]
        command = [*python, "-m", "sparkscore", "score", str(tmp_path / "p.yaml"), "--run-id", "r1", "--json"]
        kill_at(command, manifests, 1, within_s=200)
        assert not (manifests / "run.json").exists()

        again = [*python, "-c", _AGAIN, str(tmp_path / "p.yaml")]
        done = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    least = policy(load_pipeline(pipeline), "driver")
    assert outside(least, proxy.seen) == []
    deleted = ("DeleteTemporary", "s3:DeleteObject")
    assert {(sid, action) for sid, action in used(least, proxy.seen) if sid == deleted[0]} == {deleted}
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["state"], found["reused_units"] >= 1, found["quarantined_rows"]) == ("SUCCEEDED", True, 20)
    good = {i: (i % 2, expected_score(i)) for i in range(ROWS) if i % 1000 != 7}
    assert Counter(int(row[0]) for row in found["scores"]) == Counter(list(good))
    assert {int(i): (int(part), score) for i, part, score in found["scores"]} == good

    run = json.loads((manifests / "run.json").read_text())  # the same rows by a second reader, from the manifest alone
    base = s3.folder / "sinks" / "out" / run["base"]
    rows = pa.concat_tables(pq.read_table(pa.BufferReader((base / f).read_bytes())) for f in run["files"])
    assert Counter(rows["id"].to_pylist()) == Counter(range(ROWS))


@pytest.mark.lanes  # three runs on a cluster
def test_stages_and_copies_on_s3_need_what_the_policies_of_driver_and_executors_allow(
    s3: S3Server, tmp_path: Path
) -> None:
    for bucket in ("lake", "models", *(f"{what}-{kind}" for kind in _KINDS for what in ("sink", "ops"))):
        s3.bucket(bucket)
    put_up(tmp_path / "disk", ROWS, 2, 1_000, "s3://lake/team", "s3://models/fraud")
    pipelines = {kind: _pipeline(kind, **keys) for kind, keys in _KINDS.items()}
    for kind, pipeline in pipelines.items():
        (tmp_path / f"{kind}.yaml").write_text(yaml.safe_dump(pipeline))
    with faulty_proxy(s3.endpoint) as driver, faulty_proxy(s3.endpoint) as executors:
        paths = [str(tmp_path / f"{kind}.yaml") for kind in pipelines]
        command = ["env", f"AWS_ENDPOINT_URL={driver.endpoint}", sys.executable, "-c", _ON_A_CLUSTER]
        done = subprocess.run(
            [*command, executors.endpoint, str(tmp_path / "cache"), *paths], capture_output=True, text=True, timeout=580
        )
    assert done.stdout.split() == ["SUCCEEDED"] * 3, done.stderr[-2000:]
    for role, seen in (("driver", driver.seen + executors.seen), ("executor", executors.seen)):
        statements = [
            {**statement, "Sid": f"{statement['Sid']} {kind}"}
            for kind, pipeline in pipelines.items()
            for statement in policy(load_pipeline(pipeline), role)["Statement"]
        ]
        assert outside({"Statement": statements}, seen) == [], role
        deleted = {(f"DeleteTemporary {kind}", "s3:DeleteObject") for kind in _KINDS}
        assert deleted <= used({"Statement": statements}, seen), role


_KINDS: dict[str, dict[str, Any]] = {
    "files": {"sink": {"format": "parquet", "partition_by": ["label"]}},
    "atomic": {"sink": {"format": "delta", "publish": "atomic"}},
    "copy": {"sink": {"format": "delta"}, "source": {"table": "rows_of_it"}},
}


def _pipeline(kind: str, sink: dict[str, Any], **keys: Any) -> dict[str, Any]:
    places = {"source": {"format": "parquet", "location": "s3a://lake/team/in"}, "ledger": f"s3a://ops-{kind}/ledger"}
    sink = {**sink, "location": f"s3a://sink-{kind}/team/out"}
    return document("s3a://models/fraud", **{**places, "sink": sink, "quarantine": {}, **keys})
