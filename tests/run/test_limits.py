"""Limits of hours, money and rows: a run stops before the unit that would pass one, and goes on where it stopped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.plans import InputFile, Unit
from sparkscore.run.limits import Meter
from sparkscore.spec.limits import Limits
from tests.run.conftest import delta_rows, expected_score, write_rows

UNITS = [Unit.of(seq, [InputFile(f"s3a://lake/{seq}", 10, 0, 100)]) for seq in range(3)]


def _meter(hours_before: float, shown: int = 3, **limits: Any) -> Meter:
    """A meter of the second attempt, after a first one of 4 cores and units of half an hour."""
    now = datetime.now(UTC)
    start = now - timedelta(hours=10)
    told = {"unit_seq": 0, "wall_ms": 1_800_000, "event": "unit_committed"}
    events = [
        {"event": "run_claimed", "attempt": 1, "at": start.isoformat(), "cores": 4},
        {**told, "attempt": 1, "at": (start + timedelta(hours=hours_before)).isoformat()},
        {"event": "run_claimed", "attempt": 2, "at": now.isoformat()},
    ]
    told = Limits.model_validate(limits)
    return Meter(told, events[:shown], UNITS, attempt=2, cores=lambda: 8, requests=lambda unit: 1000.0)


@pytest.mark.parametrize("shown", [0, 2, 3])
def test_an_attempt_whose_own_events_a_stale_listing_hides_began_just_now(shown: int) -> None:
    assert _meter(1.5, shown).hours == pytest.approx(1.5 if shown else 0, abs=0.01)


def _room(meter: Meter, rows: int = 100, unit_rows: int | None = 100) -> None:
    meter.assert_room(UNITS[1], unit_rows, lambda: rows)


def test_rows_are_those_of_the_units_with_the_next_one() -> None:
    _room(_meter(1, rows=200))
    with pytest.raises(SparkscoreError, match=r"SPS-LIMIT.*at most 199 rows.*about 200 with unit 1") as caught:
        _room(_meter(1, rows=199))
    assert caught.value.exit_code == 7
    _room(_meter(1, rows=199), unit_rows=None)  # nobody knows how many there are: it goes on until there are too many
    with pytest.raises(SparkscoreError, match="SPS-LIMIT"):
        _room(_meter(1, rows=199), rows=199, unit_rows=None)


def test_hours_are_those_of_all_attempts_without_the_time_between_and_with_a_unit_more() -> None:
    _room(_meter(1.4, hours=2))
    with pytest.raises(SparkscoreError, match=r"at most 2 hours.*Raise limits\.hours above 2\.1"):
        _room(_meter(1.6, hours=2))


def test_money_is_counted_by_the_cores_that_each_attempt_had_and_by_requests() -> None:
    # 1 h on 4 cores and half an hour more on 8; 1,000 requests a unit.
    core, whole, request = {"core_hour": 1.0}, {"hour": 2.0}, {"request": 0.001}
    for prices, usd in ((core, 4 + 4), (whole, 2 + 1), (request, 2)):
        _room(_meter(1, usd=usd + 0.01, prices=prices))
        with pytest.raises(SparkscoreError, match=r"limits\.usd"):
            _room(_meter(1, usd=usd - 0.01, prices=prices))


@pytest.mark.spark
def test_a_run_stops_before_the_unit_that_would_pass_its_rows_and_ends_as_one_without_a_limit(
    spark, pipeline, tmp_path: Path
) -> None:
    write_rows(tmp_path / "in", 40_000, 4, bad=lambda i: i == 7)
    with pytest.raises(SparkscoreError, match=r"SPS-LIMIT.*about 30,000 with unit 2, which was not begun") as caught:
        pipeline(limits={"rows": 29_999}).run(spark, run_id="r1")
    assert caught.value.exit_code == 7
    tables = tmp_path / "out_ledger" / "tables"
    (stopped,) = delta_rows(tables / "runs").to_pylist()
    assert (stopped["state"], stopped["error_code"], stopped["exit_code"]) == ("STOPPED", "SPS-LIMIT", 7)
    states = delta_rows(tables / "units").sort_by("unit_seq")["state"].to_pylist()
    assert states == ["COMMITTED", "COMMITTED", "PLANNED", "PLANNED"]
    assert delta_rows(tables / "quarantine").num_rows == 1

    with pytest.raises(SparkscoreError, match=r"Got 20,000, and"):  # the same limit again: nothing is scored
        pipeline(limits={"rows": 29_999}).run(spark, run_id="r1")
    assert delta_rows(tmp_path / "out").num_rows == 20_000

    summary = pipeline(limits={"rows": 40_000}).run(spark, run_id="r1").summary()
    assert (summary.attempt, summary.reused_units, summary.ok_rows) == (3, 2, 39_999)
    scores = {r["id"]: r["score"] for r in delta_rows(tmp_path / "out").to_pylist()}
    assert scores == {i: None if i == 7 else expected_score(i) for i in range(40_000)}


@pytest.mark.spark
def test_a_sink_of_files_shows_nothing_of_a_run_that_stopped_at_a_limit(
    spark, pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = Meter.took
    write_rows(tmp_path / "in", 20_000, 2)
    sink = {"format": "parquet", "location": str(tmp_path / "out")}
    monkeypatch.setattr(
        Meter, "took", lambda meter, unit, wall_s: took(meter, unit, 3600.0)
    )  # that a unit takes an hour
    with pytest.raises(SparkscoreError, match=r"SPS-LIMIT.*at most 1 hours"):
        pipeline(sink=sink, limits={"hours": 1}).run(spark, run_id="r1")
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob("run_id=*"))

    assert pipeline(sink=sink).run(spark, run_id="r1").summary().reused_units == 1
    assert spark.read.parquet(str(tmp_path / "out")).select("id").distinct().count() == 20_000
