"""Every kind of sink keeps the same promises: each row once, whatever the driver died before, nothing half shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import sparkscore as ss
from sparkscore.errors import SparkscoreError
from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import LocalStore
from sparkscore.run import batch, publishing
from sparkscore.run.discarding import discard_run
from sparkscore.run.stage import Stage
from tests.run.conftest import delta_rows, expected_score, write_rows

pytestmark = pytest.mark.spark

ROWS, BAD = 20_000, 7  # two files, each large enough for a unit; one row of each thousand is bad
BEAT_S = 0.1

Row = tuple[int, str, str | None, float | None]


class Death(BaseException):
    """The driver is gone: nothing of it writes any more."""


class Dying:
    """A store whose driver dies right before it writes what holds `last` in its name or its event."""

    last = ""
    dead = False

    def put_if_absent(self, name: str, data: bytes) -> bool:
        cls = type(self)
        hit = cls.last and (cls.last in name or f'"event": "{cls.last}"'.encode() in data)
        cls.dead = cls.dead or bool(hit)
        if cls.dead:
            raise Death
        return super().put_if_absent(name, data)

    def put(self, name: str, data: bytes) -> None:
        if not type(self).dead:
            super().put(name, data)


class DyingStore(Dying, LocalStore):
    """On a disk."""


def expected() -> Counter[Row]:
    """What an undisturbed run gives, by hand."""
    good = ((i, "ok", None, expected_score(i)) for i in range(ROWS) if i % 1000 != BAD)
    bad = ((i, "error", "SPS-ROW-NULL", None) for i in range(ROWS) if i % 1000 == BAD)
    return Counter([*good, *bad])


def nested_rows(table: pa.Table) -> Counter[Row]:
    rows = table.to_pylist()
    return Counter((r["id"], r["_ss"]["status"], r["_ss"].get("error_code"), r["score"]) for r in rows)


def _flat(table: pa.Table) -> Counter[Row]:
    rows = table.to_pylist()
    return Counter((r["id"], r["_ss_status"], r["_ss_error_code"] or None, r["score"]) for r in rows)


def _files(folder: Path, ending: str) -> list[Path]:
    return sorted((folder / "run_id=r1").rglob(f"*.{ending}"))


def _parquet(out: Path) -> Counter[Row]:
    found = _files(out, "parquet")
    return (
        nested_rows(pa.concat_tables(pq.read_table(pa.BufferReader(f.read_bytes())) for f in found))
        if found
        else Counter()
    )


def _csv(out: Path) -> Counter[Row]:
    tables = [pyarrow.csv.read_csv(f) for f in _files(out, "csv") if f.stat().st_size]
    return sum((_flat(t) for t in tables), Counter())


def _avro(out: Path) -> Counter[Row]:
    from pyspark.sql import SparkSession

    spark = SparkSession.getActiveSession()
    assert spark is not None, "a run has been there before"
    found = [str(f) for f in _files(out, "avro")]
    return nested_rows(spark.read.format("avro").load(found).toArrow()) if found else Counter()


def _delta(out: Path) -> Counter[Row]:
    return nested_rows(delta_rows(out)) if (out / "_delta_log").exists() else Counter()


READERS: dict[str, tuple[dict[str, Any], Callable[[Path], Counter[Row]]]] = {
    "parquet": ({"format": "parquet"}, _parquet),
    "csv": ({"format": "csv"}, _csv),
    "atomic": ({"format": "delta", "publish": "atomic"}, _delta),
    "avro": ({"format": "avro"}, _avro),
}
LINES = [line if line != "avro" else pytest.param(line, marks=pytest.mark.lanes) for line in READERS]


@pytest.fixture
def sink(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    return lambda line, **keys: {**READERS[line][0], "location": str(tmp_path / "out"), **keys}


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Make a call whose driver dies before it writes `last`, into the ledger or into the sink."""

    def dies(last: str, call: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(DyingStore, "last", last)
            patched.setattr(DyingStore, "dead", False)
            for module in (batch, publishing):
                patched.setattr(module, "open_store", DyingStore)
            with pytest.raises(Death):
                call()

    return dies


# What a driver writes, in time order; `run.json` publishes files, and comes after the one commit of a Delta table.
UNIT, RUN = (f"_manifests/r1/{name}.json" for name in ("000001", "run"))
POINTS = (UNIT, RUN, "run_published", "run_closed")


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_a_driver_that_dies_before_each_of_its_writes_leaves_nothing_half_and_each_row_once(
    spark, pipeline, sink, dying, tmp_path: Path, line: str
) -> None:
    """One run, tried again after each death; what one attempt committed the next one takes."""
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i % 1000 == BAD)
    job, rows_of = pipeline(sink=sink(line)), READERS[line][1]
    points = POINTS if line in ("parquet", "atomic") else (UNIT, RUN)
    for point in points:
        dying(point, lambda: batch.run_batch(spark, job.spec, "r1", heartbeat_s=BEAT_S))
        shown = rows_of(tmp_path / "out")
        assert shown in (Counter(), expected()), f"half a run is shown after the death before {point}"
        assert not (shown and point == UNIT)
    run = batch.run_batch(spark, job.spec, "r1", heartbeat_s=BEAT_S)

    assert rows_of(tmp_path / "out") == expected()
    summary = run.summary()
    assert (summary.state, summary.ok_rows, summary.quarantined_rows) == ("SUCCEEDED", ROWS - 20, 20)
    assert (summary.reused_units, summary.attempt) == (2, len(points) + 1)
    assert run.failures().count() == 20
    assert run.scores().count() == ROWS - 20 == ss.read_scores(spark, str(tmp_path / "out")).count()
    assert delta_rows(tmp_path / "out_ledger" / "tables" / "quarantine").num_rows == 20
    assert job.run(spark, run_id="r1").summary().repeated
    stage = list((tmp_path / "out" / "_stage").rglob("part-*"))
    assert not stage or line != "atomic"

    store = LocalStore(tmp_path / "out_ledger")
    discard_run(spark, store, read_plan(store, "r1"))
    assert rows_of(tmp_path / "out") == Counter()
    assert not list((tmp_path / "out").rglob("*.parquet")) or line == "atomic"  # whose files are VACUUM's


@pytest.mark.parametrize("line", ["parquet", "atomic"])
def test_a_broken_budget_shows_readers_nothing_and_a_mended_one_goes_on(
    spark, pipeline, sink, tmp_path: Path, line: str
) -> None:
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i < 150)  # 1.5 % of the first unit
    rows_of = READERS[line][1]
    with pytest.raises(SparkscoreError, match="SPS-BUDGET"):
        pipeline(sink=sink(line)).run(spark, run_id="r1")
    assert rows_of(tmp_path / "out") == Counter()
    assert delta_rows(tmp_path / "out_ledger" / "tables" / "quarantine").num_rows == 150  # told all the same
    run = pipeline(sink=sink(line), on_error={"max_fraction": 0.1}).run(spark, run_id="r1")
    assert run.summary().reused_units == 1
    assert sum(rows_of(tmp_path / "out").values()) == ROWS


@pytest.mark.parametrize("line", ["parquet", "atomic"])
def test_a_driver_that_wakes_while_its_successor_has_finished_adds_no_row(
    spark, pipeline, sink, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still before it commits unit 1; its successor takes the run over and ends it."""
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i % 1000 == BAD)
    job, write = pipeline(sink=sink(line)), Stage.write
    seconds: list[Any] = []

    def stands_still(stage: Any, frame: Any, commit: Any, *rest: Any) -> None:
        if commit.unit_seq == 1 and not seconds:
            seconds.append(None)
            seconds[0] = batch.run_batch(spark, job.spec, "r1", take_over=True, heartbeat_s=BEAT_S)
        write(stage, frame, commit, *rest)

    monkeypatch.setattr(Stage, "write", stands_still)
    with pytest.raises(SparkscoreError, match="SPS-FENCED"):
        job.run(spark, run_id="r1")
    assert seconds[0].summary().attempt == 2
    assert READERS[line][1](tmp_path / "out") == expected()


@pytest.mark.parametrize("line", ["parquet", "atomic"])
def test_two_drivers_that_show_one_run_at_once_show_it_once(
    spark, pipeline, sink, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i % 1000 == BAD)
    job = pipeline(sink=sink(line))
    kind = publishing._DeltaCommit if line == "atomic" else publishing.Publication
    show, shown = kind.show, []

    def second_first(publication: Any, *args: Any) -> None:
        if not shown:
            shown.append(batch.run_batch)
            batch.run_batch(spark, job.spec, "r1", take_over=True, heartbeat_s=BEAT_S)
        show(publication, *args)

    monkeypatch.setattr(kind, "show", second_first)
    with pytest.raises(SparkscoreError, match="SPS-FENCED"):
        job.run(spark, run_id="r1")
    assert READERS[line][1](tmp_path / "out") == expected()


@pytest.mark.parametrize("line", ["parquet", "atomic"])
def test_a_driver_that_was_taken_for_dead_brings_no_row_back_into_a_discarded_run(
    spark, pipeline, sink, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still right before it shows the run, behind every look at the claims."""
    write_rows(tmp_path / "in", ROWS, 2)
    store = LocalStore(tmp_path / "out_ledger")
    kind = publishing._DeltaCommit if line == "atomic" else publishing.Publication
    show = kind.show

    def discarded_meanwhile(publication: Any, *args: Any) -> None:
        discard_run(spark, store, read_plan(store, "r1"), take_over=True)
        show(publication, *args)

    monkeypatch.setattr(kind, "show", discarded_meanwhile)
    with pytest.raises(BaseException, match=r"SPS-FENCED|SPS-|FileNotFound"):
        pipeline(sink=sink(line)).run(spark, run_id="r1")
    assert READERS[line][1](tmp_path / "out") == Counter()


def test_a_staged_file_that_is_cut_off_or_gone_is_found_before_the_run_is_shown(
    spark, pipeline, sink, dying, tmp_path: Path
) -> None:
    write_rows(tmp_path / "in", ROWS, 2)
    job = pipeline(sink=sink("parquet"))
    dying(RUN, lambda: batch.run_batch(spark, job.spec, "r1", heartbeat_s=BEAT_S))
    victim = next(iter(_files(tmp_path / "out", "parquet")), None) or next((tmp_path / "out").rglob("part-*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(SparkscoreError, match=r"SPS-LEDGER-GAP.*bytes"):
        batch.run_batch(spark, job.spec, "r1", heartbeat_s=BEAT_S)
