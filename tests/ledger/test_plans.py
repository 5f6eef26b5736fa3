"""A plan is written once, whoever comes first, and read back as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.plans import LEDGER_VERSION, InputFile, Plan, Unit, read_plan, unit_id, write_plan
from sparkscore.ledger.store import LocalStore


def _plan(run_id: str = "r1", sizes: tuple[int, ...] = (10, 20)) -> Plan:
    units = []
    for seq, size in enumerate(sizes):
        files = (InputFile(f"file:/data/{seq}.parquet", size, 1000 + seq, size), InputFile("file:/x", 1, 2, None))
        units.append(Unit.of(seq, files))
    header = {"run_id": run_id, "ledger_version": LEDGER_VERSION, "code_version": "0", "units": len(sizes)}
    return Plan(header, tuple(units))


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert write_plan(store, _plan())
    written = read_plan(store, "r1")
    assert written is not None
    assert written.header.items() > _plan().header.items()
    assert written.units == _plan().units
    assert written.units[0].rows is None
    assert read_plan(store, "other") is None


def test_units_are_read_whether_a_batch_holds_many_or_a_part_of_one(tmp_path: Path) -> None:
    store, plan = LocalStore(tmp_path), _plan(sizes=(10, 20, 30))
    written = write_plan(store, plan)
    assert written is not None
    file = tmp_path / written.header["files"]
    table = pa.ipc.open_file(file.read_bytes()).read_all()
    for rows in (100, 1):  # one batch, as versions before this one wrote it; and one for each file
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table.combine_chunks(), rows)
        again = read_plan(store, "r1")
        assert again is not None
        assert again.units == plan.units


def test_a_plan_names_its_folders_and_files_from_all_over_it() -> None:
    files = [[InputFile(f"/in/day={unit}/{i}", 1, 0, 1) for i in range(50)] for unit in range(3)]
    plan = Plan({"run_id": "r1"}, tuple(Unit.of(unit, of_unit) for unit, of_unit in enumerate(files)))
    assert plan.folders() == ["/in/day=0/", "/in/day=1/", "/in/day=2/"]
    some = plan.some_paths(6)
    assert len(some) == len(set(some)) <= 6
    assert {path.split("/")[2] for path in some} == {"day=0", "day=1", "day=2"}
    assert plan.some_paths(100)[-1].startswith("/in/day=2/")


def test_the_first_plan_wins(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert write_plan(store, _plan(sizes=(10, 20)))
    first = read_plan(store, "r1")
    assert not write_plan(store, _plan(sizes=(99,)))
    assert read_plan(store, "r1") == first


def test_a_crash_between_files_and_header_leaves_no_plan(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    write_plan(store, _plan(sizes=(10, 20)))
    (tmp_path / "plans" / "r1.json").unlink()
    assert read_plan(store, "r1") is None
    assert write_plan(store, _plan(sizes=(99,)))
    found = read_plan(store, "r1")
    assert found is not None
    assert len(found.units) == 1


def test_the_unit_id_follows_the_files_alone() -> None:
    one = _plan().units[0]
    assert one.unit_id == unit_id(one.files)
    first, *others = one.files
    assert Unit.of(0, [dataclasses.replace(first, size_bytes=11), *others]).unit_id != one.unit_id
    assert Unit.of(1, [dataclasses.replace(first, rows=None), *others]).unit_id == one.unit_id


def test_a_plan_of_another_ledger_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    plan = _plan()
    write_plan(store, Plan({**plan.header, "ledger_version": 99, "code_version": "9.9"}, plan.units))
    with pytest.raises(SparkscoreError, match=r"SPS-RUN-CHANGED.*format 1.*format 99.*9\.9"):
        read_plan(store, "r1")


def test_the_digest_covers_header_and_units() -> None:
    assert _plan(sizes=(1, 2)).sha256 != _plan(sizes=(1, 3)).sha256
    assert _plan("a").sha256 != _plan("b").sha256
