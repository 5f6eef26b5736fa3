"""Staged sinks on a real HDFS, with quarantine and ledger beside them: the rows of a run on a disk, whatever dies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import sparkscore as ss
from sparkscore.ledger.hdfs_store import HdfsStore
from sparkscore.ledger.plans import read_plan
from sparkscore.run import batch, publishing
from sparkscore.run.discarding import discard_run
from sparkscore.run.lines import line_of
from sparkscore.run.pipeline import Pipeline
from sparkscore.runtime import files
from tests.e2e.killing import kill_at
from tests.e2e.scenario import bad_rows, document, put_up, second_reader
from tests.hdfs import HdfsServer
from tests.run.conftest import expected_score, write_rows
from tests.run.test_sinks import BAD, BEAT_S, ROWS, Death, Dying, Row, expected, nested_rows

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.hdfs, pytest.mark.timeout(900)]

FEW = 200
RUN = "scheduled__2026-11-27T00:00:00"  # as Airflow names them: Hadoop's paths bear no colon
FOLDER = RUN.replace(":", "%3A")
SHOWN = f"run_id={FOLDER}"
# What a driver writes, in time order; `run.json` publishes files, and comes after the one commit of a Delta table.
POINTS = (f"_manifests/{FOLDER}/000001.json", f"_manifests/{FOLDER}/run.json", "run_published", "run_closed")
SINKS: dict[str, dict[str, Any]] = {
    "parquet": {"format": "parquet", "partition_by": ["part"]},
    "atomic": {"format": "delta", "publish": "atomic"},
}


class DyingStore(Dying, HdfsStore):
    """On HDFS."""


@pytest.fixture
def workers(spark, hdfs: HdfsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell the workers of the session, which is older than the server, where WebHDFS is."""
    for name, value in hdfs.environment.items():
        monkeypatch.setitem(spark.sparkContext.environment, name, value)


@pytest.fixture
def root(hdfs: HdfsServer, tmp_path: Path) -> str:
    """A folder of HDFS for the test alone, and its input of 20,000 rows beside it on a disk."""
    put_up(tmp_path / "disk", ROWS, 2, 1000)
    return f"{hdfs.root}/{tmp_path.name}"


@pytest.fixture
def job(root: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make a pipeline whose sink, quarantine and ledger lie on HDFS, or below another folder."""

    def make(line: str, below: str = root, **sink: Any) -> dict[str, Any]:
        keys = {**SINKS[line], "location": f"{below}/out", **sink}
        places = {"quarantine": {"location": f"{below}/bad"}, "ledger": f"{below}/ledger"}
        more = {"prepare": [{"with": {"part": "CAST(id % 3 AS INT)"}}], "keep": ["id", "part"]}
        return document(str(tmp_path / "disk"), sink=keys, outputs={"score": "y[:, 0]"}, **more, **places)

    return make


def _shown(root: str, line: str, tmp_path: Path, shown: str = SHOWN) -> Counter[Row]:
    """Give what a plain reader sees of a sink, by another reader than Spark."""
    if line == "atomic":
        log = f"{root}/out/_delta_log"
        return nested_rows(second_reader(f"{root}/out", tmp_path)) if files.list_files(log) else Counter()
    found = [f.uri for f in files.list_files(f"{root}/out/{shown}") if f.uri.endswith(".parquet")]
    tables = [pq.read_table(pa.BufferReader(files.read_bytes(uri))) for uri in found]
    return nested_rows(pa.concat_tables(tables)) if tables else Counter()


def _parts(root: str) -> list[str]:
    return [f.uri for f in files.list_files(f"{root}/out") if "/part-" in f.uri]


def test_a_run_into_parquet_on_hdfs_is_shown_by_one_rename_and_taken_back(
    spark, workers, root: str, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    write_rows(tmp_path / "disk" / "in", FEW, 2)
    assert Pipeline.load(job("parquet")).run(spark, run_id=RUN).summary().state == "SUCCEEDED"
    good = Counter((i, "ok", None, expected_score(i)) for i in range(FEW))
    assert _shown(root, "parquet", tmp_path) == good
    plain = spark.read.parquet(f"{root}/out").select("id", "part", "run_id").collect()  # what any reader of files sees
    assert Counter((r.id, r.part, r.run_id) for r in plain) == Counter((i, i % 3, RUN) for i in range(FEW))
    assert ss.read_scores(spark, f"{root}/out").count() == FEW

    store = HdfsStore(f"{root}/ledger")
    line_of(spark, read_plan(store, RUN), store).discard()
    assert _parts(root) == []


@pytest.mark.lanes
@pytest.mark.parametrize("line", SINKS)
def test_a_driver_that_dies_before_each_of_its_writes_leaves_nothing_half_and_each_row_once(
    spark,
    workers,
    root: str,
    job: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
) -> None:
    """One run, tried again after each death, beside one on a disk."""
    disk = str(tmp_path / "local")
    Pipeline.load(job(line, disk)).run(spark, run_id=RUN)
    undisturbed = _shown(disk, line, tmp_path)
    assert undisturbed == expected()

    spec = Pipeline.load(job(line)).spec
    for point in POINTS:
        with monkeypatch.context() as patched:
            patched.setattr(DyingStore, "last", point)
            patched.setattr(DyingStore, "dead", False)
            for module in (batch, publishing):
                patched.setattr(module, "open_store", DyingStore)
            with pytest.raises(Death):
                batch.run_batch(spark, spec, RUN, heartbeat_s=BEAT_S)
        shown = _shown(root, line, tmp_path)
        assert shown in (Counter(), undisturbed), f"half a run is shown after the death before {point}"
        assert not (shown and point == POINTS[0])
    run = batch.run_batch(spark, spec, RUN, heartbeat_s=BEAT_S)

    assert _shown(root, line, tmp_path) == undisturbed
    summary = run.summary()
    assert (summary.state, summary.ok_rows, summary.quarantined_rows) == ("SUCCEEDED", ROWS - 20, 20)
    assert (summary.reused_units, summary.attempt) == (2, len(POINTS) + 1)
    scores = ss.read_scores(spark, f"{root}/out", f"{root}/ledger").select("id", "score").collect()
    assert Counter((r.id, "ok", None, r.score) for r in scores) == undisturbed - _bad()
    assert bad_rows(second_reader(f"{root}/bad", tmp_path)) == bad_rows(second_reader(f"{disk}/bad", tmp_path))

    store = HdfsStore(f"{root}/ledger")
    discard_run(spark, store, read_plan(store, RUN))
    assert _shown(root, line, tmp_path) == Counter()
    assert not _parts(root) or line == "atomic"  # whose files are VACUUM's


def _bad() -> Counter[Row]:
    return Counter((i, "error", "SPS-ROW-NULL", None) for i in range(ROWS) if i % 1000 == BAD)


@pytest.mark.lanes
def test_a_killed_run_resumes_beside_another_one_and_both_are_taken_back_by_the_command_line(
    root: str, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Three processes of their own: the first is killed, and goes on while the second scores into the same sink."""
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(job("parquet")))
    command = [sys.executable, "-m", "sparkscore", "score", str(tmp_path / "p.yaml"), "--json", "--run-id"]
    kill_at([*command, RUN], f"{root}/out/_manifests/{FOLDER}", 1, within_s=300)
    assert _shown(root, "parquet", tmp_path) == Counter()

    both = [subprocess.Popen([*command, run_id], stdout=subprocess.PIPE) for run_id in (RUN, "r2")]
    found = [json.loads(process.communicate(timeout=600)[0]) for process in both]
    assert [(f["state"], f["ok_rows"], f["quarantined_rows"]) for f in found] == [("SUCCEEDED", ROWS - 20, 20)] * 2
    assert (found[0]["attempt"], found[0]["reused_units"] >= 1) == (2, True)
    for shown in (SHOWN, "run_id=r2"):
        assert _shown(root, "parquet", tmp_path, shown) == expected()

    for run_id, left in ((RUN, Counter()), ("r2", Counter())):
        discard = [sys.executable, "-m", "sparkscore", "runs", "discard", run_id, str(tmp_path / "p.yaml"), "--json"]
        told = subprocess.run(discard, capture_output=True, text=True, timeout=300)
        assert (told.returncode, json.loads(told.stdout)["state"]) == (0, "DISCARDED"), told.stderr[-2000:]
        assert _shown(root, "parquet", tmp_path, f"run_id={run_id.replace(':', '%3A')}") == left
        states = Counter(
            (r["run_id"], r["state"]) for r in second_reader(f"{root}/bad", tmp_path / run_id[:2]).to_pylist()
        )
        assert states[run_id, "discarded"] == 20
    assert _parts(root) == []
    runs = second_reader(f"{root}/ledger/tables/runs", tmp_path)
    assert {(r["run_id"], r["state"]) for r in runs.to_pylist()} == {(RUN, "DISCARDED"), ("r2", "DISCARDED")}


@pytest.mark.lanes
def test_an_overwrite_on_hdfs_that_failed_half_way_replaces_its_part_in_one_commit(
    spark, workers, root: str, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    Pipeline.load(job("atomic", partition_by=["part"])).run(spark, run_id="r1")
    part = job("atomic", partition_by=["part"], mode="overwrite", replace_where="part = 1")
    part["prepare"] += [{"where": "part = 1"}, {"with": {"a": "a + 1"}}]
    with pytest.raises(KeyboardInterrupt):
        Pipeline.load(part).run(spark, run_id="r2", progress=_stop)
    assert _shown(root, "atomic", tmp_path) == expected()
    summary = Pipeline.load(part).run(spark, run_id="r2").summary()
    assert (summary.attempt, summary.reused_units) == (2, 1)
    rows = second_reader(f"{root}/out", tmp_path / "2").to_pylist()
    assert Counter(r["id"] for r in rows) == Counter(range(ROWS))
    before = {row[0]: row[3] for row in expected()}
    plus = {r["id"]: r["score"] - (before[r["id"]] or 0) for r in rows if r["score"] is not None}
    assert {i: p for i, p in plus.items() if p != (0.5 if i % 3 == 1 else 0.0)} == {}
    assert {r["_ss"]["run_id"] for r in rows if r["part"] == 1} == {"r2"}


def _stop(done: int, *_: object) -> None:
    if done == 1:
        raise KeyboardInterrupt
