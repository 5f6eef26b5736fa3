"""The demo as a newcomer runs it, and the same run killed on its way: each row once, and the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from sparkscore.demo import MAX_FILE_ROWS
from tests.e2e.killing import kill_at

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]

FLIGHTS, CANCELLED = 336_776, 8_255
PIPELINE = Path(__file__).parents[2] / "conf" / "pipelines" / "flights.yaml"


@dataclass(frozen=True)
class Demo:
    """An undisturbed demo: its folder and what it printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    return Demo(folder, _sparkscore("demo", "--dir", str(folder)))


def test_the_demo_ends_with_a_summary_that_accounts_for_every_flight(demo: Demo) -> None:
    assert "336,776 planned = 328,521 ok + 8,255 quarantined" in demo.printed
    assert "SPS-ROW-NULL" in demo.printed
    assert "CPUExecutionProvider" in demo.printed
    assert "sparkscore runs show flights-demo" in demo.printed


def test_the_table_holds_each_flight_once_with_the_nulls_of_the_source(demo: Demo) -> None:
    table = DeltaTable(demo.folder / "flights")
    rows = table.to_pyarrow_table()
    nulls = {name: rows[name].null_count for name in rows.schema.names}
    weather = ("temp", "visib", "wind_speed", "precip")
    without = reduce(pc.and_, (pc.is_null(rows[name]) for name in weather))
    assert rows.num_rows == len(pc.unique(rows["flight_id"])) == FLIGHTS
    assert nulls["dep_delay"] == CANCELLED
    assert pc.sum(without).as_py() == 1_556
    assert not any(nulls[name] for name in ("hour", "distance", "carrier", "origin"))
    assert not any(pc.any(pc.is_nan(rows[name].drop_null())).as_py() for name in ("temp", "wind_speed"))
    hours = pc.strftime(rows["time_hour"], "%Y-%m-%d %H")
    parts = (rows[name].cast(pa.string()) for name in ("year", "month", "day", "hour"))
    year, month, day, hour = (pc.utf8_lpad(part, 2, "0") for part in parts)
    local = pc.binary_join_element_wise(pc.binary_join_element_wise(year, month, day, "-"), hour, " ")
    assert pc.any(pc.not_equal(hours, local)).as_py()  # hours are those of New York, the instants are UTC
    files = [pq.read_metadata(uri).num_rows for uri in table.file_uris()]
    assert (sum(files), max(files)) == (FLIGHTS, MAX_FILE_ROWS)
    assert len({Path(uri).parent.name for uri in table.file_uris()}) == 12


def test_exactly_the_cancelled_flights_are_in_the_quarantine(demo: Demo) -> None:
    missing = pa.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True, include_columns=["dep_delay"])
    flights = pa.csv.read_csv(next(demo.folder.rglob("flights.csv")), convert_options=missing)
    assert flights["dep_delay"].null_count == CANCELLED
    source = DeltaTable(demo.folder / "flights").to_pyarrow_table(columns=["flight_id", "dep_delay"])
    cancelled = source.filter(source["dep_delay"].is_null())["flight_id"].to_pylist()
    quarantine = DeltaTable(demo.folder / "quarantine").to_pyarrow_table(columns=["keys", "error_code"])
    assert sorted(dict(k)["flight_id"] for k in quarantine["keys"].to_pylist()) == sorted(cancelled)
    assert set(quarantine["error_code"].to_pylist()) == {"SPS-ROW-NULL"}


def test_the_model_ran_once_a_row(demo: Demo) -> None:
    receipts = [json.loads(p.read_text()) for p in (demo.folder / "ledger" / "receipts").rglob("*.json")]
    assert sum(r["rows_in"] for r in receipts) == FLIGHTS
    assert sum(r["rows_called"] for r in receipts) == sum(r["rows_scored"] for r in receipts) == FLIGHTS - CANCELLED


def test_the_same_demo_again_does_nothing_and_says_so(demo: Demo) -> None:
    version = DeltaTable(demo.folder / "scores").version()
    assert "already finished" in _sparkscore("demo", "--dir", str(demo.folder))
    assert DeltaTable(demo.folder / "scores").version() == version


@pytest.mark.parametrize(
    "fraction", [pytest.param(at, marks=pytest.mark.turn(day, 3)) for day, at in enumerate((0.1, 0.5, 0.9))]
)
def test_a_killed_run_resumes_to_the_same_bits(demo: Demo, tmp_path: Path, fraction: float) -> None:
    command = [
        *(sys.executable, "-m", "sparkscore", "score", str(PIPELINE), "--run-id", "killed"),
        *("--set", f"dir={demo.folder}", "--set", f"sink.location={tmp_path / 'scores'}"),
        *("--set", f"ledger={tmp_path / 'ledger'}", "--set", f"quarantine.location={tmp_path / 'bad'}"),
    ]
    units = len(list((demo.folder / "ledger" / "receipts" / "flights-demo").iterdir()))
    kill_at(command, tmp_path / "scores" / "_delta_log", max(1, int(fraction * units)), within_s=240)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

    assert _rows(tmp_path / "scores") == _rows(demo.folder / "scores")
    assert _rows_by_pyarrow(tmp_path / "scores") == _rows(demo.folder / "scores")
    attempts_of_unit = Counter(unit for unit, _ in _scored(tmp_path / "ledger" / "receipts" / "killed"))
    assert sum(attempts_of_unit.values()) - units <= 1  # at most one unit again


def _sparkscore(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "sparkscore", *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _scored(receipts: Path) -> set[tuple[int, int]]:
    """The (unit, attempt) pairs that left a receipt: the units that an attempt scored."""
    found = (json.loads(p.read_text()) for p in receipts.rglob("*.json"))
    return {(r["unit_seq"], r["attempt"]) for r in found}


def _rows(table: Path) -> Counter[tuple[object, ...]]:
    """The rows as a multiset of key, status, reason, and the score's very bits, read by delta-rs."""
    return _multiset(DeltaTable(table).to_pyarrow_table())


def _rows_by_pyarrow(table: Path) -> Counter[tuple[object, ...]]:
    """The same rows from the data files alone."""
    return _multiset(pa.concat_tables(pq.read_table(uri) for uri in DeltaTable(table).file_uris()))


def _multiset(rows: pa.Table) -> Counter[tuple[object, ...]]:
    ss = rows["_ss"].combine_chunks()
    bits = rows["p_late"].combine_chunks().cast(pa.float32()).view(pa.int32())
    columns = (rows["flight_id"], ss.field("status"), ss.field("error_code"), bits)
    return Counter(zip(*(c.to_pylist() for c in columns), strict=True))
