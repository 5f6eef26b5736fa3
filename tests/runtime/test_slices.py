"""Slices of Parquet files: each row once and where it is, typed as Spark types it, and bad files by name."""

from __future__ import annotations

import os
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.runtime.slices import Scan, cut, folder_values, read_slices, spark_uri
from sparkscore.scoring.batching import rebatch
from sparkscore.scoring.intake import pointers
from sparkscore.spec.scoring import FILE_COL, ROW_COL

SCHEMA = pa.schema([("id", pa.int64()), ("x", pa.float32())])
SCAN = Scan((("id", "id"), ("x", "x")), SCHEMA)


def write(path, rows, group=10, **more):
    table = pa.table({"id": pa.array(rows, pa.int64()), "x": pa.array([i / 2 for i in rows], pa.float32()), **more})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group, write_page_checksum=True)
    return path


def slices(path, part_bytes=1 << 30):
    stat = path.stat()
    return cut(str(path), stat.st_size, stat.st_mtime_ns // 1_000_000, part_bytes)


def read(scan, parts):
    return pa.Table.from_batches(list(read_slices(scan, parts)))


@pytest.mark.parametrize("part_bytes", [1, 100, 1000, 10**9])
def test_each_row_is_in_one_slice_with_its_index_however_a_file_is_cut(tmp_path, part_bytes):
    path = write(tmp_path / "a.parquet", range(105))
    found = read(SCAN, slices(path, part_bytes))
    assert found["id"].to_pylist() == found[ROW_COL].to_pylist() == list(range(105))
    assert set(found[FILE_COL].to_pylist()) == {spark_uri(str(path))}


def test_columns_are_found_without_case_and_cast_and_renamed_and_may_be_absent_from_a_delta_file(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"ID": pa.array([1, 2], pa.uint32()), "t": pa.array(["a", "b"]).dictionary_encode()}), path)
    schema = pa.schema([("id", pa.int64()), ("t", pa.string()), ("new", pa.float64())])
    scan = Scan((("k", "id"), ("t", "t"), ("k2", "id"), ("new", "new")), schema, absent_is_null=True)
    (batch,) = read_slices(scan, slices(path))
    assert batch.schema.names == ["k", "t", "k2", "new", FILE_COL, ROW_COL]
    assert batch.schema.types[:4] == [pa.int64(), pa.string(), pa.int64(), pa.float64()] == scan.batch_schema.types
    assert batch.slice(1).to_pylist()[0] | {FILE_COL: 0} == {
        "k": 2, "t": "b", "k2": 2, "new": None, FILE_COL: 0, ROW_COL: 1
    }  # fmt: skip


def test_values_of_folders_are_columns_and_a_scan_may_ask_for_nothing_else(tmp_path):
    path = write(tmp_path / "Day=2020-02-01" / "city=a%20b" / "a.parquet", range(25))
    schema = pa.schema([("day", pa.date32()), ("city", pa.string())])
    found = read(Scan((("city", "city"), ("day", "day")), schema, ("day", "city")), slices(path))
    assert [(str(r["day"]), r["city"]) for r in found.to_pylist()] == [("2020-02-01", "a b")] * 25
    assert folder_values("/d/k=__HIVE_DEFAULT_PARTITION__/f", ("k",)) == {"k": None}
    assert folder_values("/k=0/t/K=1/f", ("k",)) == {"k": "1"}


def test_a_where_keeps_the_rows_that_it_is_true_of_and_their_own_indices(tmp_path):
    path = write(tmp_path / "a.parquet", range(30))
    where = ("and", (">", "x", 3.0), ("not", ("=", "id", 8)))
    found = read(Scan((("id", "id"),), SCHEMA, where=where), slices(path))
    assert found["id"].to_pylist() == found[ROW_COL].to_pylist() == [7, *range(9, 30)]


def test_an_empty_file_and_an_empty_row_group_give_no_rows(tmp_path):
    assert not list(read_slices(SCAN, slices(write(tmp_path / "a.parquet", []))))


@pytest.mark.parametrize("name", ["plain", "with space", "100%", "ü", "a+b&c=d", "q?x#y", "[a]{b}", "it's"])
def test_a_file_of_any_name_is_read(tmp_path, name):
    path = write(tmp_path / name / "a.parquet", range(3))
    assert read(SCAN, slices(path))["id"].to_pylist() == [0, 1, 2]


def failing(parts, scan=SCAN):
    with pytest.raises(SparkscoreError) as raised:
        list(read_slices(scan, parts))
    return raised.value


def test_a_file_that_is_gone_changed_cut_or_damaged_is_named_and_gives_no_other_numbers(tmp_path):
    path = write(tmp_path / "a.parquet", range(1000), group=1000)
    parts = slices(path)
    whole = path.read_bytes()

    path.unlink()
    assert failing(parts).code == "SPS-DATA-GONE"
    path.write_bytes(whole + b"x")
    assert failing(parts).code == "SPS-DATA-DRIFT"
    path.write_bytes(whole[: len(whole) // 2])
    cut_off = failing(slices(path))
    assert (cut_off.code, cut_off.context["file"]) == ("SPS-DATA-FILE", str(path))
    path.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    flipped = failing(slices(path))
    assert (flipped.code, flipped.context["file"]) == ("SPS-DATA-FILE", str(path))


def test_a_file_that_changes_while_it_is_read_is_drift(tmp_path):
    path = write(tmp_path / "a.parquet", range(100))
    reading = read_slices(SCAN, slices(path))
    next(reading)
    os.utime(path, (1, 1))
    with pytest.raises(SparkscoreError, match=r"SPS-DATA-DRIFT"):
        list(reading)


def test_a_column_that_is_absent_or_there_twice_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", range(3), X=pa.array([1.0, 2.0, 3.0]))
    twice = failing(slices(path))
    assert (twice.code, "x and X" in twice.message) == ("SPS-DATA-COLUMN", True)
    absent = failing(slices(path), Scan((("z", "z"),), pa.schema([("z", pa.int64())])))
    assert absent.code == "SPS-DATA-COLUMN"


def test_a_row_group_is_never_held_as_a_whole(tmp_path):
    """What Arrow holds at most stays far below the bytes of one row group."""
    columns = {f"c{i}": pa.array(range(i, 400_000 + i), pa.int64()) for i in range(8)}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=400_000, use_dictionary=False, compression="none")
    scan = Scan(tuple((n, n) for n in columns), pa.schema([(n, pa.int64()) for n in columns]))
    pool, held = pa.default_memory_pool(), []
    before = pool.bytes_allocated()
    for batch in read_slices(scan, slices(path)):
        held.append(pool.bytes_allocated() - before)
        del batch
    assert max(held) < path.stat().st_size / 2


def test_slices_of_several_files_follow_each_other(tmp_path):
    paths = [write(tmp_path / f"{i}.parquet", range(i * 10, i * 10 + 10)) for i in range(3)]
    found = read(SCAN, list(chain.from_iterable(slices(p) for p in paths)))
    assert found["id"].to_pylist() == list(range(30))
    assert found[ROW_COL].to_pylist() == [*range(10)] * 3


def test_batches_of_two_files_are_merged_by_the_scorer_and_keep_their_addresses(tmp_path):
    paths = [write(tmp_path / f"{i}.parquet", range(i * 10, i * 10 + 10)) for i in range(3)]
    parts = list(chain.from_iterable(slices(p) for p in paths))
    (merged,) = rebatch(read_slices(SCAN, parts), 30, 1.0)
    assert pointers(merged).to_pylist() == [f"{spark_uri(str(path))}#{i}" for path in paths for i in range(10)]


def test_row_groups_are_cut_evenly_and_wide_rows_to_few_megabytes(tmp_path):
    write(tmp_path / "a.parquet", range(20_000), group=20_000)
    assert {b.num_rows for b in read_slices(SCAN, slices(tmp_path / "a.parquet"))} == {10_000}
    blobs = pa.array([os.urandom(100_000) for _ in range(400)])
    pq.write_table(pa.table({"id": pa.array(range(400), pa.int64()), "blob": blobs}), tmp_path / "b.parquet")
    scan = Scan((("blob", "blob"),), pa.schema([("blob", pa.binary())]))
    assert max(b.nbytes for b in read_slices(scan, slices(tmp_path / "b.parquet"))) < 10 * 2**20
    narrow = Scan((("id", "id"),), SCHEMA.remove(1))
    assert {b.num_rows for b in read_slices(narrow, slices(tmp_path / "b.parquet"))} == {400}
