"""A pipeline whose source, model, sink, quarantine and ledger are all on a real S3-compatible server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import DeltaTable

from sparkscore.run.pipeline import Pipeline
from sparkscore.runtime import files
from tests.e2e.iam import outside, used
from tests.e2e.killing import kill_at
from tests.e2e.scenario import bad_rows, document, put_up, scored_rows
from tests.faults import Request, faulty_proxy
from tests.servers import S3Server, s3_server

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.s3, pytest.mark.timeout(600)]

ROWS, UNITS, EVERY = 20_000, 2, 1_000  # a file of 10,000 rows is a unit; one row in a thousand is bad


# Executors have an endpoint of their own, by their environment: Python workers read it there, and S3A is told to.
_AGAIN = """
import json, sys
import sparkscore as ss
from sparkscore.spark.sessions import local_session
conf = {"spark.executorEnv.AWS_ENDPOINT_URL": sys.argv[2], "spark.hadoop.fs.s3a.endpoint": "${env.AWS_ENDPOINT_URL}"}
conf["spark.executorEnv.SPARKSCORE_CACHE"] = sys.argv[3]
spark = local_session("local-cluster[1,2,1024]", conf, ["s3a://scores"])
pipeline = ss.Pipeline.load(sys.argv[1])
summary = pipeline.run(spark, run_id="r1").summary().to_json()
print(json.dumps([summary, pipeline.estimate(spark).to_json()]))
"""

# What a policy allows and these runs did not need, with the reason why it is in it.
_SEEN_ELSEWHERE = {
    "AbortMultipartUpload": "an upload that breaks off is taken back",
    "ReadModel ListBucket": "a model may be a folder; and a file that is not there is told from a forbidden one",
}
_SEEN_ELSEWHERE_BY_EXECUTORS = {
    **_SEEN_ELSEWHERE,
    "ReadInput ListBucket": "tasks list a source of more than 32 folders; and as for the model",
}


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        for bucket in ("lake", "models", "scores", "refused", "ops"):
            server.bucket(bucket)
        yield server


@pytest.fixture
def s3(_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    return _server


@dataclass(frozen=True)
class Resumed:
    """A run that was killed on one machine and resumed on a cluster, then estimated, with what it asked of S3.

    `here` are requests of the one process that was killed; `driver` and `executors` are those of the resume.
    """

    disk: Path
    pipeline: Path
    summary: dict[str, Any]
    estimate: dict[str, Any]
    here: list[Request]
    driver: list[Request]
    executors: list[Request]


@pytest.fixture(scope="module")
def resumed(_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resumed]:
    """Score from, with and into places of their own."""
    folder = tmp_path_factory.mktemp("resumed")
    disk, pipeline = folder / "disk", folder / "p.yaml"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _server.environment.items():
            patch.setenv(name, value)
        put_up(disk, ROWS, UNITS, EVERY, "s3://lake/team", "s3://models/fraud")
    places = {
        "source": {"format": "parquet", "location": "s3a://lake/team/in"},
        "sink": {"format": "delta", "location": "s3a://scores/team/out"},
        "quarantine": {"location": "s3a://refused/team/bad"},
        "ledger": "s3a://ops/team/ledger",
    }
    pipeline.write_text(yaml.safe_dump(document("s3a://models/fraud", **places)))
    with faulty_proxy(_server.endpoint) as driver, faulty_proxy(_server.endpoint) as executors:
        environment = {**_server.environment, "AWS_ENDPOINT_URL": driver.endpoint}
        python = ["env", *(f"{name}={value}" for name, value in environment.items()), sys.executable]
        command = [*python, "-m", "sparkscore", "score", str(pipeline), "--run-id", "r1"]
        kill_at(command, _server.folder / "scores/team/out/_delta_log", 1, within_s=200)
        here = list(driver.seen)
        again = [*python, "-c", _AGAIN, str(pipeline), executors.endpoint, str(folder / "cache")]
        done = subprocess.run(again, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        summary, estimate = json.loads(done.stdout.splitlines()[-1])
        yield Resumed(disk, pipeline, summary, estimate, here, driver.seen[len(here) :], executors.seen)


def test_a_run_on_s3_that_is_killed_resumes_to_the_bits_of_a_run_on_a_disk(
    spark, resumed: Resumed, s3: S3Server
) -> None:
    disk = resumed.disk
    Pipeline.load(document(str(disk))).run(spark, run_id="r1")

    summary = resumed.summary
    assert (summary["ok_rows"], summary["quarantined_rows"], summary["attempt"]) == (ROWS - 20, 20, 2)
    assert summary["reused_units"] >= 1
    assert scored_rows(_table("s3://scores/team/out", s3)) == scored_rows(_table(disk / "out"))
    assert scored_rows(_by_pyarrow(s3)) == scored_rows(_table(disk / "out"))
    assert bad_rows(_table("s3://refused/team/bad", s3)) == bad_rows(_table(disk / "bad"))
    assert "SUCCEEDED" in _table("s3://ops/team/ledger/tables/runs", s3)["state"].to_pylist()


def test_an_estimate_on_s3_leaves_its_figure_and_nothing_else_in_the_ledger(resumed: Resumed, s3: S3Server) -> None:
    assert resumed.estimate["rows"] == ROWS
    assert resumed.estimate["requests"] > 0
    left = [found.uri.rpartition("/")[2] for found in files.list_files("s3a://ops/team/ledger/estimates")]
    assert [name.rpartition(".")[2] for name in left] == ["json"]


def test_driver_and_executors_ask_of_s3_what_their_policies_allow_and_policies_allow_no_more(resumed: Resumed) -> None:
    requests = {"driver": [*resumed.here, *resumed.driver, *resumed.executors], "executor": resumed.executors}
    of = {role: _policy(resumed.pipeline, role) for role in requests}
    assert {role: outside(of[role], requests[role]) for role in requests} == {"driver": [], "executor": []}
    assert _unused(of["driver"], requests["driver"]) == set(_SEEN_ELSEWHERE)
    assert _unused(of["executor"], requests["executor"]) == set(_SEEN_ELSEWHERE_BY_EXECUTORS)

    # They are told apart: workers alone write receipts, here of the second attempt, and only a driver claims.
    receipt = "/ops/team/ledger/receipts/r1/1/2-"
    assert [r.path for r in resumed.driver if r.method != "GET" and r.path.startswith(receipt)] == []
    assert [r.path for r in resumed.executors if r.path.startswith(receipt)] != []
    assert ("s3:PutObject", "arn:aws:s3:::ops/team/ledger/claims/r1/000002.json") in outside(
        of["executor"], resumed.driver
    )


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


def _policy(pipeline: Path, role: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "sparkscore", "doctor", str(pipeline), "--iam", role]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return dict(json.loads(printed))


def _unused(policy: dict[str, Any], requests: list[Request]) -> set[str]:
    """Name what no request needed: by its action where that is so of each statement that has it."""
    seen, having = used(policy, requests), {(s["Sid"], a) for s in policy["Statement"] for a in s["Action"]}
    nowhere = {action for _, action in having} - {action for _, action in seen}
    names = {(sid, a): a if a in nowhere else f"{sid} {a}" for sid, a in having - seen}
    return {name.replace("s3:", "") for name in names.values()}


def _table(place: str | Path, s3: S3Server | None = None) -> pa.Table:
    return DeltaTable(str(place), storage_options=_options(s3) if s3 else None).to_pyarrow_table()


def _options(s3: S3Server) -> dict[str, str]:
    return {**s3.environment, "AWS_ALLOW_HTTP": "true"}


def _by_pyarrow(s3: S3Server) -> pa.Table:
    """The same rows from the data files alone."""
    uris = DeltaTable("s3://scores/team/out", storage_options=_options(s3)).file_uris()
    return pa.concat_tables(pq.read_table(pa.BufferReader(files.read_bytes(uri))) for uri in uris)
