"""The demo's data: the flights of 2013 as the package on PyPI has them, and as the Delta table that is scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from sparkscore import demo

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HOME = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """The downloaded files, kept in the clone's .data between runs."""
    demo.download(HOME / ".data")
    return HOME / ".data"


@pytest.mark.slow
def test_a_damaged_file_is_replaced_by_the_known_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "flights.csv").write_text("year,month\n2013,1\n")
    flights, weather = demo.download(tmp_path)
    assert flights.stat().st_size == 31_053_850
    assert weather.stat().st_size == 2_294_215
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flights.csv", "weather.csv"]


@pytest.mark.slow
def test_what_was_downloaded_needs_no_network_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")  # no pip to call
    assert demo.download(data) == (data / "flights.csv", data / "weather.csv")


@pytest.mark.spark
@pytest.mark.slow
def test_the_table_holds_each_flight_once_with_the_nulls_of_the_source(
    spark: SparkSession, data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "flights"
    demo.prepare(spark, data, table)
    demo.prepare(spark, data, table)  # is there already
    facts = (
        spark.read.format("delta")
        .load(str(table))
        .selectExpr(
            "count(*) AS flights",
            "count(DISTINCT flight_id) AS ids",
            "count_if(dep_delay IS NULL) AS cancelled",
            "count_if(temp IS NULL AND visib IS NULL AND wind_speed IS NULL AND precip IS NULL) AS without_weather",
            "count_if(hour IS NULL OR distance IS NULL OR carrier IS NULL OR origin IS NULL) AS other_nulls",
            "count_if(isnan(temp) OR isnan(wind_speed)) AS nans",
            "count_if(date_format(time_hour, 'yyyy-MM-dd HH') != concat_ws(' ', make_date(year, month, day), "
            "lpad(hour, 2, '0'))) > 0 AS hours_are_utc",
        )
    )
    assert facts.first().asDict() == {
        "flights": demo.FLIGHTS,
        "ids": demo.FLIGHTS,
        "cancelled": 8_255,
        "without_weather": 1_556,
        "other_nulls": 0,
        "nans": 0,
        "hours_are_utc": True,
    }
    files = [pq.read_metadata(path).num_rows for path in table.rglob("*.parquet")]
    assert sum(files) == demo.FLIGHTS
    assert max(files) == demo.MAX_FILE_ROWS
    assert len({path.parent.name for path in table.rglob("month=*/*.parquet")}) == 12
