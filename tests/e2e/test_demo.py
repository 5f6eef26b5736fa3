"""The demo as a newcomer runs it, and the same run killed three times: each row once, and the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

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


def test_killed_at_10_50_and_90_percent_it_resumes_to_the_same_bits(demo: Demo, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "sparkscore", "score", str(PIPELINE), "--run-id", "killed"),
        *("--set", f"dir={demo.folder}", "--set", f"sink.location={tmp_path / 'scores'}"),
        *("--set", f"ledger={tmp_path / 'ledger'}", "--set", f"quarantine.location={tmp_path / 'bad'}"),
    ]
    units = len(list((demo.folder / "ledger" / "receipts" / "flights-demo").iterdir()))
    for fraction in (0.1, 0.5, 0.9):
        kill_at(command, tmp_path / "scores" / "_delta_log", max(1, int(fraction * units)), within_s=240)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

    assert _rows(tmp_path / "scores") == _rows(demo.folder / "scores")
    assert _rows_by_pyarrow(tmp_path / "scores") == _rows(demo.folder / "scores")
    attempts_of_unit = Counter(unit for unit, _ in _scored(tmp_path / "ledger" / "receipts" / "killed"))
    assert sum(attempts_of_unit.values()) - units <= 3  # at most one unit again for each kill


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
