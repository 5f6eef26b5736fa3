"""What is peculiar to a kind of sink: overwriting, catalog tables, text formats, databases, and what each refuses."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkscore as ss
from sparkscore.errors import SparkscoreError
from sparkscore.ledger.events import read_events
from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import LocalStore
from sparkscore.run.debris import sweep_debris
from sparkscore.run.discarding import discard_run
from sparkscore.run.stage import Stage
from tests.run.conftest import delta_rows, expected_score, write_rows

ROWS = 600


@pytest.fixture
def days(tmp_path: Path) -> Callable[..., None]:
    """Write the input of one day, in the place of the days before, or beside them."""

    def write(day: str, ids: range, *, beside: bool = False) -> None:
        (tmp_path / "in").mkdir(exist_ok=True)
        columns = {n: pa.array([i % m for i in ids], pa.float32()) for n, m in (("a", 97), ("b", 13), ("c", 7))}
        table = pa.table({"id": pa.array(list(ids), pa.int64()), "day": pa.array([day] * len(ids)), **columns})
        for old in () if beside else (tmp_path / "in").glob("*"):
            old.unlink()
        pq.write_table(table, tmp_path / "in" / f"{day}.parquet")

    return write


def _days(out: Path) -> Counter[str]:
    return Counter(delta_rows(out)["day"].to_pylist())


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_overwrite_replaces_the_table_or_a_part_of_it_in_one_commit(spark, pipeline, tmp_path: Path, days) -> None:
    out = tmp_path / "out"
    atomic = {"format": "delta", "location": str(out), "publish": "atomic"}
    part = {**atomic, "mode": "overwrite", "replace_where": "day = '2'", "partition_by": ["day"]}
    keep = ["id", "day"]
    days("1", range(100))
    days("2", range(1000, 1050), beside=True)
    pipeline(sink={**atomic, "partition_by": ["day"]}, keep=keep).run(spark, run_id="r1")
    days("2", range(1000, 1070))
    pipeline(sink=part, keep=keep).run(spark, run_id="r2")
    assert _days(out) == {"1": 100, "2": 70}

    days("3", range(10))
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-SINK.*inside sink.replace_where") as caught:
        pipeline(sink=part, keep=keep).run(spark, run_id="r4")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out_ledger" / "receipts" / "r4").exists(), "rows were scored before it was told"
    by_score = {**part, "replace_where": "score < 0"}  # of an output, so only the commit can tell
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-SINK"):
        pipeline(sink=by_score, keep=keep).run(spark, run_id="r5")
    assert _days(out) == {"1": 100, "2": 70}

    days("4", range(30))
    pipeline(sink={**atomic, "mode": "overwrite"}, keep=keep).run(spark, run_id="r6")
    assert _days(out) == {"4": 30}
    store = LocalStore(tmp_path / "out_ledger")
    assert ss.read_scores(spark, str(out)).count() == 30
    discard_run(spark, store, read_plan(store, "r6"))
    assert _days(out) == {}


@pytest.mark.spark
@pytest.mark.parametrize("publish", ["progressive", "atomic"])
def test_a_catalog_table_is_made_filled_once_and_shown_by_two_views(
    spark, pipeline, tmp_path: Path, publish: str
) -> None:
    name = f"scores_{publish}"
    write_rows(tmp_path / "in", 20_000, 2, bad=lambda i: i < 5)
    keys = {"format": "delta", "table": name, "publish": publish}
    job = pipeline(sink=keys, ledger=str(tmp_path / "ledger"))
    with pytest.raises(KeyboardInterrupt):
        job.run(spark, run_id="r1", progress=_stop)
    run = job.run(spark, run_id="r1")
    assert (run.summary().sink, run.summary().reused_units) == (name, 1)
    ids = [row.id for row in spark.table(name).select("id").collect()]
    assert Counter(ids) == Counter(range(20_000))
    assert (spark.table(f"{name}_ok").count(), spark.table(f"{name}_errors").count()) == (19_995, 5)
    assert ss.read_scores(spark, name, str(tmp_path / "ledger")).count() == 19_995
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-SOURCE.*ledger"):
        ss.read_scores(spark, name)
    if publish == "atomic":
        again = pipeline(sink={**keys, "mode": "overwrite"}, ledger=str(tmp_path / "ledger"))
        again.run(spark, run_id="r2")
        assert Counter(row.id for row in spark.table(name).select("id").collect()) == Counter(range(20_000))
    store = LocalStore(tmp_path / "ledger")
    discard_run(spark, store, read_plan(store, "r2" if publish == "atomic" else "r1"))
    assert spark.table(name).count() == 0


def _stop(done: int, *_: object) -> None:
    if done == 1:
        raise KeyboardInterrupt


@pytest.mark.spark
def test_a_name_of_the_catalog_that_is_something_else_is_refused(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    spark.range(1).write.mode("overwrite").format("parquet").saveAsTable("plain")
    spark.range(1).write.mode("overwrite").format("parquet").saveAsTable("taken_ok")
    for table, told in (("plain", "another format"), ("taken", "taken_ok to be free"), ("nowhere.t", "schema nowhere")):
        job = pipeline(sink={"format": "delta", "table": table}, ledger=str(tmp_path / "ledger"))
        with pytest.raises(SparkscoreError, match=rf"SPS-SPEC-SINK.*{told}"):
            job.check(spark)


TEXTS = ["", " a ", "q\"uo'te", "back\\", "a,b", "line\nbreak", "\\n", "null", "é€", '"', None]


@pytest.mark.spark
@pytest.mark.parametrize("format", ["csv", "json", "orc", "avro"])
def test_each_format_of_files_gives_back_what_it_was_given(spark, pipeline, tmp_path: Path, format: str) -> None:
    """Kept texts, small numbers, instants of microseconds, nulls, a partition, and the payload of a bad row."""
    (tmp_path / "in").mkdir()
    n = len(TEXTS)
    table = pa.table(
        {
            "id": pa.array(range(n), pa.int64()),
            "text": pa.array(TEXTS),
            "short": pa.array([None if i == 4 else -i for i in range(n)], pa.int16()),
            "at": pa.array([1_700_000_000_123_456 + i for i in range(n)], pa.timestamp("us", "UTC")),
            "day": pa.array([f"d{i % 2}" for i in range(n)]),
            "a": pa.array([None if i == 3 else i / 10 for i in range(n)], pa.float32()),
            "b": pa.array([1.0] * n, pa.float32()),
            "c": pa.array([0.1] * n, pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "in" / "p.parquet")
    keep = {
        "keep": ["id", "text", "short", "at", "day"],
        "quarantine": {"payload": "plain"},
        "on_error": {"max_fraction": 1},
    }
    frames = []
    for kind, out in (("parquet", "parquet_out"), (format, "out")):
        sink = {"format": kind, "location": str(tmp_path / out), "partition_by": ["day"]}
        pipeline(sink=sink, **keep).run(spark, run_id=f"scheduled__{kind}:1")
        frames.append(ss.read_scores(spark, str(tmp_path / out)))
    columns = ["id", "text", "short", "at", "day", "score"]
    first, second = (sorted(frame.select(columns).collect()) for frame in frames)
    assert first == second
    assert frames[0].select(columns).dtypes == frames[1].select(columns).dtypes
    assert len(first) == n - 1
    payloads = delta_rows(tmp_path / "out_ledger" / "tables" / "quarantine")["payload"].to_pylist()
    assert [json.loads(p)["id"] for p in payloads] == [3]


@pytest.mark.spark
def test_a_database_gets_each_unit_at_least_once_and_the_run_says_so(
    spark, pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Derby stands in Spark's own jars. The driver dies between the handing over of a unit and its mark."""
    write_rows(tmp_path / "in", 20_000, 2, bad=lambda i: i < 5)
    url = f"jdbc:derby:{tmp_path / 'db'};create=true"
    options = {"url": url, "dbtable": "scores", "driver": "org.apache.derby.iapi.jdbc.AutoloadedDriver"}
    options["pushDownPredicate"] = "false"  # Spark makes texts CLOBs, which Derby does not compare
    job = pipeline(sink={"format": "jdbc", "options": options}, ledger=str(tmp_path / "ledger"))
    report = job.check(spark)
    assert any("at least once" in w for w in report.warnings)
    assert report.sink == "scores"

    mark = Stage.mark
    with monkeypatch.context() as patched:
        patched.setattr(Stage, "mark", lambda stage, kind, seq: 1 / 0 if seq else mark(stage, kind, seq))
        with pytest.raises(SparkscoreError, match="SPS-FAILED"):
            job.run(spark, run_id="r1")
    run = job.run(spark, run_id="r1")
    there = spark.read.format("jdbc").options(**options).load()
    counts = Counter(row.id for row in there.select("id").collect())
    assert set(counts) == set(range(20_000))
    assert Counter(counts.values()) == {1: 10_000, 2: 10_000}  # the unit whose mark was lost, and no other
    assert {row.id: row.score for row in run.scores().collect()} == {i: expected_score(i) for i in range(5, 20_000)}
    assert run.summary().quarantined_rows == 5
    assert any("at least once" in w for w in run.summary().warnings)
    store = LocalStore(tmp_path / "ledger")
    assert "at_least_once" in {e["event"] for e in read_events(store, "r1")}
    assert delta_rows(tmp_path / "ledger" / "tables" / "quarantine").num_rows == 5
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-SINK.*takes rows back"):
        discard_run(spark, store, read_plan(store, "r1"))
    assert run.failures().count() == 5


@pytest.mark.spark
def test_a_sink_that_cannot_take_the_rows_is_refused_before_anything_is_scored(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", ROWS, 1)
    out = str(tmp_path / "out")

    def refused(match: str, **keys: Any) -> None:
        with pytest.raises(SparkscoreError, match=match):
            pipeline(**keys).check(spark)

    listed = {"score": {"output": "y", "then": [{"top_k": 1}]}}
    refused(r"SPS-SPEC-SINK.*single values.*csv", sink={"format": "csv", "location": out}, outputs=listed)
    avro = {"format": "avro", "location": out}
    refused(r"SPS-SPEC-SINK.*avro\. Got a b: the name", sink=avro, keep=["a b"], prepare=[{"with": {"a b": "a"}}])
    renamed = [{"with": {"run_id": "id"}}]
    parquet = {"format": "parquet", "location": out}
    refused(r"SPS-SPEC-COLLISION.*run_id", sink=parquet, keep=["id", "run_id"], prepare=renamed)
    refused(r"SPS-ENV-PACKAGE.*'parqet'.*Did you mean 'parquet'", sink={**parquet, "format": "parqet"})
    refused(r"SPS-SPEC-SINK.*part-000", sink={**parquet, "location": str(tmp_path / "in")}, ledger=str(tmp_path / "l"))
    pipeline(sink=parquet).run(spark, run_id="r1")
    refused(r"SPS-SPEC-SINK.*go on as parquet", sink={**parquet, "format": "json"})
    refused(r"SPS-SPEC-SINK.*the column a: float", sink=parquet, keep=["id", "a"])
    refused(r"SPS-SPEC-SINK.*Delta table", sink={"format": "delta", "location": out})
    pipeline(sink=parquet).run(spark, run_id="r2")
    assert ss.read_scores(spark, out).count() == 2 * ROWS
    assert spark.read.parquet(out).groupBy("run_id").count().count() == 2  # what a plain reader sees
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-SOURCE.*manifests"):
        ss.read_scores(spark, str(tmp_path / "in"))


def test_only_debris_of_attempts_that_were_passed_over_and_older_than_a_day_is_swept(tmp_path: Path) -> None:
    sink, ledger = LocalStore(tmp_path / "out"), LocalStore(tmp_path / "ledger")
    for attempt in (1, 2):
        ledger.put_if_absent(f"claims/r:1/{attempt:06d}.json", b"{}")
    ledger.put_if_absent("claims/r2/000001.json", b"{}")
    now = 1_800_000_000.0

    def staged(run: str, attempt: int, unit: int, age_h: float) -> Path:
        folder = tmp_path / "out" / "_stage" / f"_ss_run={run}" / f"_ss_attempt={attempt:06d}" / f"_ss_unit={unit:06d}"
        folder.mkdir(parents=True)
        (folder / "part-0.parquet").write_bytes(b"x")
        os.utime(folder / "part-0.parquet", (now - age_h * 3600,) * 2)
        return folder

    committed, old, young = (staged("r%3A1", 1, unit, age) for unit, age in ((0, 48), (1, 25), (2, 23)))
    newest, single, unknown = staged("r%3A1", 2, 1, 48), staged("r2", 1, 0, 48), staged("r9", 1, 0, 48)
    sink.put_if_absent("_manifests/r%3A1/000000.json", json.dumps({"attempt": 1}).encode())
    assert sweep_debris(sink, ledger, now) == [str(old)]
    assert [f.exists() for f in (committed, young, newest, single, unknown)] == [True] * 5
    assert not old.exists()
