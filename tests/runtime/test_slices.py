"""Slices of Parquet files: each row once and where it is, typed as Spark types it, and bad files by name."""

from __future__ import annotations

import datetime as dt
import os
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import WriterProperties, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import files
from sparkscore.runtime.filters import _OPS, kept, may_hold
from sparkscore.runtime.slices import Scan, buffer_bytes, cut, folder_values, read_slices, spark_uri
from sparkscore.scoring.batching import rebatch
from sparkscore.scoring.intake import pointers
from sparkscore.spec.scoring import DROPPED_COL, FILE_COL, ROW_COL
from tests.servers import s3_server, slow_door

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


def test_row_groups_and_folders_without_a_row_of_a_where_are_left_out_and_indices_stay(tmp_path):
    path = write(tmp_path / "day=2020-02-01" / "a.parquet", range(100))
    schema = SCHEMA.append(pa.field("day", pa.date32()))

    def groups(where):
        return [
            b[ROW_COL].to_pylist() for b in read_slices(Scan((("id", "id"),), schema, ("day",), where=where), parts)
        ]

    parts, day = slices(path), dt.date(2020, 2, 1)
    assert groups(("and", (">=", "id", 42), ("<", "id", 51))) == [[*range(42, 50)], [50]]
    assert groups(("and", (">=", "id", 95), ("<>", "day", day))) == []
    assert groups(("and", (">=", "id", 95), ("=", "day", day))) == [[95, 96, 97, 98, 99]]
    assert len(groups(("<", "x", -1.0))) == 10  # a float, which may be NaN


def test_texts_are_asked_for_equality_alone():
    """Whether a writer that cut a greatest text off raised what is left is not known."""
    spans = {"t": (b"a", b"b")}
    assert not may_hold(("=", "t", "bz"), spans)
    assert all(may_hold((op, "t", "bz"), spans) for op in (">", ">=", "<>"))


def test_a_text_is_found_in_a_row_group_whose_statistics_are_cut_off(tmp_path):
    """parquet-rs, behind delta-rs, cuts texts in statistics."""
    long = pa.table({"id": pa.array([1, 2, 3]), "t": ["é" * 100, "é" * 100 + "z", "ü" * 100]})
    write_deltalake(tmp_path, long, writer_properties=WriterProperties(statistics_truncate_length=7))
    (path,) = tmp_path.glob("*.parquet")
    assert pq.read_metadata(path).row_group(0).column(1).statistics.max_raw != ("ü" * 100).encode()
    schema = pa.schema([("id", pa.int64()), ("t", pa.string())])
    for i, text in enumerate(long["t"].to_pylist()):
        for where in (("=", "t", text), ("and", (">=", "t", text), ("<=", "t", text))):
            assert read(Scan((("id", "id"),), schema, where=where), slices(path))["id"].to_pylist() == [i + 1]


NUMBERS = st.none() | st.integers(-4, 4)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=40)
TYPES = {"i": pa.int32(), "day": pa.date32(), "t": pa.string(), "x": pa.float64()}


def value(name, n):
    return {"i": n, "day": dt.date(2020, 2, 10) + dt.timedelta(n), "t": "é" * (n + 4), "x": float(n)}[name]


COMPARISONS = st.builds(
    lambda op, name, n: (op, name, value(name, n)),
    st.sampled_from(sorted(_OPS)),
    st.sampled_from([*TYPES]),
    st.integers(-5, 5),
)
FILTERS = st.recursive(
    COMPARISONS | st.builds(lambda name: ("null", name), st.sampled_from([*TYPES])),
    lambda parts: st.tuples(st.sampled_from(["and", "or"]), parts, parts) | st.tuples(st.just("not"), parts),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, where=FILTERS, group=st.integers(1, 5))
def test_row_groups_that_are_left_out_have_no_row_of_the_where(tmp_path, rows, where, group):
    cells = zip(*sorted(rows, key=str), strict=True)
    columns = {
        name: pa.array([None if n is None else value(name, n) for n in numbers], TYPES[name])
        for name, numbers in zip(TYPES, cells, strict=True)
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=group)
    found = read_slices(
        Scan((("i", "i"),), pa.schema(list(TYPES.items())), where=where), slices(tmp_path / "a.parquet")
    )
    wanted = [i for i, is_kept in enumerate(kept(where, columns).to_pylist()) if is_kept]
    assert [i for batch in found for i in batch[ROW_COL].to_pylist()] == wanted


def test_rows_that_a_step_drops_stay_and_are_marked_with_the_first_such_step(tmp_path):
    path = write(tmp_path / "a.parquet", range(6))
    drops = ((1, (">", "id", 1)), (4, ("not", ("=", "x", 1.0))), (5, ("and", (">", "id", 0), ("<", "id", 5))))
    found = read(Scan((("id", "id"),), SCHEMA, drops=drops), slices(path))
    assert found[DROPPED_COL].to_pylist() == [1, 1, 4, None, None, 5]
    assert found[ROW_COL].to_pylist() == [*range(6)]


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


@pytest.mark.parametrize("kind", ["numbers", "words", "lists"])
def test_what_is_held_does_not_grow_with_the_row_group(tmp_path, kind):
    small, large = (most_held(tmp_path / f"{rows}.parquet", kind, rows) for rows in (200_000, 1_000_000))
    assert large < 1.5 * small
    assert large < 24 * 2**20  # of 64 MB


def most_held(path, kind, rows):
    """Bytes that Arrow holds at most while it reads a row group of 64 bytes a row, in its own pool."""
    ids = pa.array(np.arange(rows))
    if kind == "lists":
        columns = {"x": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8 * rows)), 8)}
        columns["x"] = columns["x"].cast(pa.list_(pa.int64()))
    elif kind == "words":
        words = pa.array([f"{i:60}" for i in range(1000)])
        columns = {"id": ids, "x": words.take(pc.bit_wise_and(ids, 511))}
    else:
        columns = {f"c{i}": ids for i in range(8)}
    table = pa.table(columns)
    pq.write_table(table, path, row_group_size=rows, use_dictionary=kind == "words", compression="none")
    scan = Scan(tuple((n, n) for n in table.schema.names), table.schema)
    parts, pool, held = slices(path), pa.default_memory_pool(), []
    before = pool.bytes_allocated()
    for batch in read_slices(scan, parts):
        held.append(pool.bytes_allocated() - before)
        del batch
    return max(held)


@pytest.mark.parametrize("columns", [0, 1, 31, 200])
@pytest.mark.parametrize("place", ["/lake/a", "s3a://lake/a"])
def test_buffers_of_all_columns_are_bounded(place, columns):
    one = buffer_bytes(place, columns)
    assert one * columns <= 64 * 2**20
    assert one >= (8 if place.startswith("s3") and columns < 2 else 0.3) * 2**20


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
    write(tmp_path / "a.parquet", range(100_000), group=100_000)
    numbers_alone = Scan((("id", "id"),), SCHEMA.remove(1))
    assert {b.num_rows for b in read_slices(numbers_alone, slices(tmp_path / "a.parquet"))} == {50_000}
    blobs = pa.array([os.urandom(100_000) for _ in range(400)])
    pq.write_table(pa.table({"id": pa.array(range(400), pa.int64()), "blob": blobs}), tmp_path / "b.parquet")
    scan = Scan((("blob", "blob"),), pa.schema([("blob", pa.binary())]))
    assert max(b.nbytes for b in read_slices(scan, slices(tmp_path / "b.parquet"))) < 10 * 2**20
    narrow = Scan((("id", "id"),), SCHEMA.remove(1))
    assert {b.num_rows for b in read_slices(narrow, slices(tmp_path / "b.parquet"))} == {400}


@pytest.mark.parametrize("dictionary, rows", [(True, 8000), (False, 40_000)])
def test_batches_are_short_where_a_dictionary_hides_how_large_the_values_are(tmp_path, dictionary, rows):
    table = pa.table({"id": pa.array(range(40_000), pa.int64()), "name": ["a" * 100] * 40_000})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=dictionary)
    scan = Scan((("name", "name"),), pa.schema([("name", pa.string())]))
    assert {b.num_rows for b in read_slices(scan, slices(tmp_path / "a.parquet"))} == {rows}


@pytest.mark.parametrize("values", [["a" * 20_000] * 40_000, ["a" * 10_000 + f"{i:05}" for i in range(10_000)]])
def test_a_batch_is_of_some_8_mib_where_an_encoding_hides_how_large_its_values_are(tmp_path, values):
    encodings = {"use_dictionary": True} if values[0] == values[1] else {"column_encoding": "DELTA_BYTE_ARRAY"}
    table = pa.table({"name": values})
    pq.write_table(table, tmp_path / "a.parquet", **{"use_dictionary": False, **encodings})
    scan = Scan((("name", "name"),), pa.schema([("name", pa.string())]))
    found = list(read_slices(scan, slices(tmp_path / "a.parquet")))
    assert max(batch.column("name").nbytes for batch in found) < 12 << 20
    assert sum(batch.num_rows for batch in found) == len(values)


def test_a_column_whose_name_is_the_path_of_another_ones_leaf_is_read_by_its_own_name(tmp_path):
    columns = {"v": [[9.0], [8.0]], "v.list": [[1.0], [2.0]], "a": [{"b": 3.0}, {"b": 4.0}], "a.b": [5.0, 6.0]}
    table = pa.table({**columns, "c": [7.0, 8.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    names = ["v.list", "a.b", "c"]
    found = read(Scan(tuple((n, n) for n in names), table.select(names).schema), slices(tmp_path / "a.parquet"))
    assert found.select(names).equals(table.select(names))


def test_rows_of_hundreds_of_files_make_one_batch(tmp_path):
    paths = [write(tmp_path / f"{i:03}.parquet", [i]) for i in range(300)]
    (batch,) = rebatch(read_slices(SCAN, [one for path in paths for one in slices(path)]), 8192)
    assert batch.column("id").to_pylist() == list(range(300))
    assert batch.column(FILE_COL).to_pylist() == [spark_uri(str(path)) for path in paths]


def test_a_filter_on_days_that_python_has_not_reads_the_row_group(tmp_path):
    days = pa.array([3_000_000, -800_000, 0], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"id": [1, 2, 3], "day": days}), tmp_path / "a.parquet")
    schema = pa.schema([("id", pa.int64()), ("day", pa.date32())])
    scan = Scan((("id", "id"),), schema, where=(">", "day", dt.date(2020, 1, 1)))
    assert read(scan, slices(tmp_path / "a.parquet"))["id"].to_pylist() == [1]


@pytest.mark.slow
def test_the_columns_of_a_file_on_s3_are_fetched_at_the_same_time(tmp_path, monkeypatch):
    width = 12
    data = np.random.default_rng(0).standard_normal((width, 100_000))
    table = pa.table({f"f{i}": column for i, column in enumerate(data)})
    with s3_server(tmp_path) as server, slow_door(server.endpoint) as (door, endpoint):
        server.bucket("wide")
        pq.write_table(table, server.folder / "wide" / "x.parquet")
        for name, value in {**server.environment, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        (found,) = files.list_files("s3a://wide/x.parquet", recursive=False)
        slices = cut(found.uri, found.size_bytes, found.mtime_ns // 1_000_000, 2**40)
        scan = Scan(tuple((name, name) for name in table.column_names), table.schema)
        read = pa.Table.from_batches(read_slices(scan, slices)).select(table.column_names)
    assert read.equals(table)
    assert door.most_at_once >= width // 2
