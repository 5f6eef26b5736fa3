"""An estimate: measured by a run that leaves nothing behind, kept, and held against the run that follows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.events import read_events
from sparkscore.ledger.plans import InputFile, Unit
from sparkscore.ledger.store import LocalStore
from sparkscore.run import estimate, probe
from sparkscore.run.calibration import Calibration, Piece, forecast
from sparkscore.run.estimate import Estimate
from sparkscore.run.requests import request_warning
from sparkscore.run.scan import TaskSizes
from tests.run.conftest import write_rows

MIB = 1024**2
SIZES = TaskSizes(cores=4, opening_bytes=4 * MIB, most_bytes=128 * MIB)
JOB: Any = SimpleNamespace(
    scoring=SimpleNamespace(columns=("a", "b"), keep=("id",), keys=("id",)),
    pipeline=SimpleNamespace(sink=SimpleNamespace(place="/out")),
)


def _piece(**facts: Any) -> Piece:
    about = {
        "weight": 1000,
        "rows": 1000,
        "ok_rows": 990,
        "bad_rows": 10,
        "is_whole": True,
        "tasks": 2,
        "busy_tasks": 2,
    }
    times = {"task_s": 2.0, "longest_task_s": 1.0, "model_s": 0.5, "wall_s": 1.5, "output_bytes": 8000}
    return Piece(**{**about, **times, **facts})


def _calibration(*pieces: Piece) -> Calibration:
    return Calibration("now", "CPU", "CPUExecutionProvider", 4, pieces or (_piece(),), fixed_s=10.0, cold_start_s=3.0)


def _unit(seq: int, *sizes: int, rows: int | None = 1000, place: str = "/lake") -> Unit:
    return Unit.of(seq, [InputFile(f"{place}/{seq}-{i}", size, 0, rows) for i, size in enumerate(sizes)])


def test_pieces_without_a_row_say_how_few_rows_there_are_and_nothing_of_their_time() -> None:
    empty = _piece(rows=0, ok_rows=0, bad_rows=0, busy_tasks=0, task_s=0.2)
    found = _calibration(empty, empty, _piece())
    assert found.ns_row(0.5, 0.95) == [2e6, 2e6]
    assert found.bad_fraction(0.95) == [0.01]
    assert found.rows_per_weight == pytest.approx(1 / 3)
    assert _calibration(empty).ns_row(0.5) == [0]


def test_hours_are_those_of_units_in_turn_each_in_rounds_of_its_tasks_and_what_is_fixed() -> None:
    # 2 ms of a core a row. One task: 2 s. Eight tasks on four cores: two rounds of a fourth of 8 x 2 s. 0.5 s a unit.
    one, eight = _unit(0, 4 * MIB), _unit(1, *[124 * MIB] * 8)
    told = forecast([one, eight], _calibration(), SIZES, JOB)
    assert told.hours * 3600 == pytest.approx(10 + 2 * 0.5 + 2 + 16 / 4)
    assert (told.rows, told.ns_row, told.requests) == (9000, 2e6, 0)
    assert told.parts_s["the model"] == pytest.approx(0.25 * 6)
    assert told.limited_by == "start and end"


def test_tasks_without_a_row_group_do_not_share_the_work() -> None:
    unit = _unit(0, 124 * MIB, 124 * MIB)  # four tasks by bytes, of which the probe found half without a row
    busy = forecast([unit], _calibration(), SIZES, JOB)
    idle = forecast([unit], _calibration(_piece(busy_tasks=1)), SIZES, JOB)
    assert (idle.hours - busy.hours) * 3600 == pytest.approx(4 / 2 - 4 / 4)


def test_the_interval_is_that_of_all_resamples_of_the_pieces() -> None:
    found = _calibration(_piece(task_s=1.0), _piece(task_s=2.0), _piece(task_s=6.0))
    means = sorted(sum(three) / 3 for three in itertools.product([1.0, 2.0, 6.0], repeat=3))
    middle, high = found.ns_row(0.5, 1.0)
    assert middle == pytest.approx(means[13] * 1e6)
    assert high == pytest.approx(6e6)


def test_rows_that_a_filter_drops_are_known_where_a_piece_was_read_whole() -> None:
    found = _calibration(_piece(rows=250), _piece(rows=9, is_whole=False))
    assert found.rows_per_weight == 0.25
    assert _calibration(_piece(rows=9, is_whole=False)).rows_per_weight == 1.0


def test_requests_limit_a_run_over_small_files_on_s3_and_the_plan_says_so() -> None:
    # 1,000 files of 1 MB: three requests to open each, one for each of three columns.
    small, large = _unit(0, *[MIB] * 1000, place="s3a://lake"), _unit(0, 1000 * MIB, rows=10**6, place="s3a://lake")
    fast = _calibration(_piece(task_s=2e-6))
    told = forecast([small], replace(fast, fixed_s=0.0), SIZES, JOB)
    assert told.requests == 6000
    assert told.hours * 3600 >= 6000 / 5500
    (warning,) = request_warning([replace_rows(small, 1)], 3)
    assert "requests limit this run, not CPU: some 6,000 reads of 1,000 files" in warning
    assert not request_warning([large], 3)
    assert not request_warning([_unit(0, *[MIB] * 1000, rows=1)], 3)


def replace_rows(unit: Unit, rows: int) -> Unit:
    """Give a unit whose files hold so many rows."""
    return Unit.of(unit.seq, [replace(file, rows=rows) for file in unit.files])


@pytest.mark.spark
@pytest.mark.slow
def test_an_estimate_leaves_the_sink_alone_is_reused_and_is_held_against_the_run(
    spark, pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "in", 60_000, 4, bad=lambda i: i % 100 == 7)
    job, ledger = pipeline(), tmp_path / "out_ledger"
    first = job.estimate(spark, {"core_hour": 0.5, "hour": 1.0})
    assert not (tmp_path / "out").exists()
    assert [p.name for p in ledger.iterdir()] == ["estimates"]
    (kept,) = (ledger / "estimates").iterdir()
    assert kept.suffix == ".json"  # the probe's folder is gone
    assert (first.rows, first.units, first.files, first.scan) == (60_000, 4, 4, "fused")
    assert first.bad_rows == pytest.approx(600)
    assert first.usd == pytest.approx(first.hours * (2 * 0.5 + 1.0))
    assert first.ns_row_p95 >= first.ns_row > 0 < first.unit_overhead_s
    assert 0 < first.model_fraction < 1
    assert "USD" in str(first)

    again = pipeline(limits={"rows": 59_999, "hours": 100}).estimate(spark)
    assert "limits.rows 59999 would stop the run" in str(again)
    assert "limits.hours" not in str(again)
    assert (again.is_reused, again.calibrated_at, again.hours, again.usd) == (
        True,
        first.calibrated_at,
        first.hours,
        None,
    )

    summary = job.run(spark, run_id="r1").summary()
    events = {e["event"]: e for e in read_events(LocalStore(ledger), "r1")}
    assert events["run_predicted"]["hours"] == summary.predicted_hours == pytest.approx(first.hours, abs=1e-6)
    assert events["run_closed"]["hours"] == pytest.approx(summary.hours, rel=0.1)
    assert events["run_closed"]["ns_row"] == summary.ns_row > 0
    assert f"{summary.predicted_hours * 3600:,.1f} s predicted" in str(summary)

    kept_now: list[Calibration] = []  # another way of the rows, of which nothing is known, and tasks without time
    monkeypatch.setattr(probe, "PIECE_S", 1e-6)
    monkeypatch.setattr(estimate, "write_calibration", lambda store, key, found: kept_now.append(found))
    other = pipeline(scan="map_in_arrow").estimate(spark)
    assert (other.is_reused, other.rows) == (False, 60_000)
    assert [(piece.rows, piece.is_whole) for piece in kept_now[0].pieces] == [(10_000, False)] * 3


@pytest.mark.spark
@pytest.mark.slow
def test_lines_are_counted_by_what_the_probe_found_in_their_bytes(spark, pipeline, tmp_path: Path) -> None:
    rows = spark.range(30_000).selectExpr("id", "CAST(id % 97 AS FLOAT) a", "1.5F b", "2.5F c")
    rows.repartition(3).write.csv(str(tmp_path / "in"))
    source = {"format": "csv", "location": str(tmp_path / "in"), "schema": "id bigint, a float, b float, c float"}
    sink = {"format": "parquet", "location": str(tmp_path / "out")}
    found = pipeline(source=source, sink=sink).estimate(spark)
    assert found.rows == pytest.approx(30_000, rel=0.02)
    assert found.scan.startswith("map_in_arrow (SOURCE")


@pytest.mark.spark
def test_a_source_without_files_is_refused_since_a_run_would_copy_it_first(spark, pipeline, tmp_path: Path) -> None:
    spark.range(3).selectExpr("id", "1F a", "1F b", "1F c").createOrReplaceTempView("rows")
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-VALUE.*a source with files.*view rows|.*copies first"):
        pipeline(source={"table": "rows"}).estimate(spark)


def test_a_report_is_text_and_json() -> None:
    facts: dict[str, Any] = dict.fromkeys(Estimate.__dataclass_fields__, 0)
    found = Estimate(**{**facts, "hours": 30.5, "hours_p95": 0.5, "usd": None, "requests": 7e9, "warnings": ("w",)})
    assert "about 30.50 h (p95 30.0 min)" in str(found)
    assert "requests     about 7,000,000,000" in str(found)
    assert found.to_json()["warnings"] == ["w"]
