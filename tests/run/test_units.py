"""Files become units: a pilot first, about 5 % of the rows each, no file cut, none lost."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparkscore.run.units
from sparkscore.ledger.input_files import FileList, InputFile
from sparkscore.run.units import MAX_UNITS, pack


def _looks(*rows: int | None) -> pa.Table:
    return FileList.of(InputFile(f"file:/d/{i}.parquet", 100 * (r or 50_000), i, r) for i, r in enumerate(rows)).table


def test_a_small_input_is_one_unit() -> None:
    assert len(pack(_looks(5_000, 5_000))) == 1


def test_the_pilot_is_the_smallest_file_alone() -> None:
    units = pack(_looks(*[9_000] * 30, 300))
    assert [f.rows for f in units[0].files] == [300]


def test_units_hold_five_percent_of_the_rows_within_half_a_file_at_each_end() -> None:
    _pilot, *units = pack(_looks(*[4_100] * 97))
    aim = 0.05 * 97 * 4_100
    assert len(units) == 20
    assert all(aim - 4_100 <= (u.rows or 0) <= aim + 4_100 for u in units)


def test_a_file_larger_than_the_aim_is_a_unit_of_its_own() -> None:
    units = pack(_looks(1_000_000, 20_000, 20_000))
    assert any([f.rows for f in u.files] == [1_000_000] for u in units)


def test_a_unit_holds_no_more_files_than_spark_plans_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparkscore.run.units, "MAX_FILES", 10)
    units = pack(_looks(*[1_000] * 400))  # 5 % of the rows are 20 files
    assert max(len(u.files) for u in units) <= 10


def test_files_without_rows_are_left_out_and_none_is_no_unit() -> None:
    assert pack(_looks(0, 0)) == ()
    assert [len(u.files) for u in pack(_looks(0, 7, 0))] == [1]


def test_a_filtered_delta_table_gets_at_most_eight_units() -> None:
    assert len(pack(_looks(*[40_000] * 200), max_units=8)) <= 8


def test_formats_without_a_row_count_are_cut_by_bytes() -> None:
    assert len(pack(_looks(*[None] * 40))) > 10


@given(st.lists(st.integers(0, 200_000), max_size=200), st.sampled_from([1, 8, MAX_UNITS]))
def test_every_file_with_rows_is_in_exactly_one_unit(rows: list[int], max_units: int) -> None:
    looks = _looks(*rows)
    units = pack(looks, max_units)
    packed = sorted(f.path for u in units for f in u.files)
    assert packed == sorted(path for path, n in FileList(looks).values("path", "rows") if n)
    assert [u.seq for u in units] == list(range(len(units)))
    assert len(units) <= max(1, max_units)
    assert pack(looks, max_units) == units
