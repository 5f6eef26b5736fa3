"""A run's first fold is an append that Delta takes once; whoever folds before or after it, each row is there once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import LocalStore
from sparkscore.run import folding
from sparkscore.run.lines import line_of
from sparkscore.spark.delta_log import delta_path
from tests.run.conftest import delta_rows, write_rows

pytestmark = [pytest.mark.spark, pytest.mark.slow]

TABLES = ("runs", "units", "quarantine")


@pytest.fixture
def tables(tmp_path: Path):
    return tmp_path / "out_ledger" / "tables"


def rows_of(tables: Path) -> dict[str, list[tuple]]:
    keys = {"runs": ("run_id", "attempt", "state"), "units": ("run_id", "unit_seq", "state"), "quarantine": ("q_id",)}
    return {
        name: sorted(tuple(row[key] for key in keys[name]) for row in delta_rows(tables / name).to_pylist())
        for name in TABLES
    }


def operations(spark, table: Path) -> list[str]:
    return [row.operation for row in spark.sql(f"DESCRIBE HISTORY {delta_path(str(table))}").collect()]


def test_first_folds_append_and_folds_after_them_add_nothing(spark, pipeline, tmp_path: Path, tables: Path) -> None:
    write_rows(tmp_path / "in", 1000, 2, bad=lambda i: i in (7, 8))
    job = pipeline()
    for run_id in ("r1", "r2"):
        job.run(spark, run_id=run_id)
    assert {name: operations(spark, tables / name) for name in TABLES} == dict.fromkeys(TABLES, ["WRITE"] * 2)
    before = rows_of(tables)
    assert before["runs"] == [("r1", 1, "SUCCEEDED"), ("r2", 1, "SUCCEEDED")]
    assert [len(before[name]) for name in TABLES] == [2, 2, 4]

    store = LocalStore(tmp_path / "out_ledger")
    plan = read_plan(store, "r1")
    for is_first in (True, False):
        folding.fold_run(spark, store, "r1", is_first=is_first)
        folding.fold_quarantine(spark, job.spec, plan, line_of(spark, plan, store), is_first)
    assert rows_of(tables) == before


def test_a_driver_that_wakes_after_others_folded_for_it_adds_nothing(
    spark, pipeline, tmp_path: Path, tables: Path, monkeypatch
) -> None:
    write_rows(tmp_path / "in", 1000, 2, bad=lambda i: i in (7, 8))
    job, store = pipeline(), LocalStore(tmp_path / "out_ledger")
    with monkeypatch.context() as asleep:  # before its folds
        asleep.setattr(folding, "fold_quarantine", lambda *_: None)
        asleep.setattr(folding, "tables_folded", lambda *_: False)
        job.run(spark, run_id="r1")
    plan = read_plan(store, "r1")

    for is_first in (False, True):  # others, without tables and then with them; and then the driver
        folding.fold_run(spark, store, "r1", is_first=is_first)
        folding.fold_quarantine(spark, job.spec, plan, line_of(spark, plan, store), is_first)
        found = rows_of(tables)
        assert found["runs"] == [("r1", 1, "SUCCEEDED")]
        assert [len(found[name]) for name in TABLES] == [1, 1, 2]
    assert [row["state"] for row in delta_rows(tables / "quarantine").to_pylist()] == ["open", "open"]
