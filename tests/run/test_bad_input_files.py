"""Files that are damaged, gone or changed: caught, named, and nothing of their unit is committed."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.run import attempt
from tests.run.conftest import delta_rows, write_rows

pytestmark = pytest.mark.spark


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(500))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, garbage, empty])
def test_a_damaged_parquet_file_is_named_before_anything_is_scored(spark, pipeline, tmp_path: Path, damage) -> None:
    folder = Path(write_rows(tmp_path / "in", 100, 4))
    damage(folder / "part-002.parquet")
    with pytest.raises(SparkscoreError) as caught:
        pipeline().run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-DATA-FILE", 6), str(caught.value)
    assert caught.value.context["file"].endswith("part-002.parquet")
    assert not (tmp_path / "out").exists()


def test_single_bit_flips_in_data_pages_are_caught(spark, pipeline, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    table = pa.table({"id": np.arange(2_000), **{n: rng.random(2_000, np.float32) for n in "abc"}})
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(table, folder / "x.parquet", write_page_checksum=True, compression=None, use_dictionary=False)
    whole = (folder / "x.parquet").read_bytes()
    column = pq.ParquetFile(folder / "x.parquet").metadata.row_group(0).column(2)
    for turn, share in enumerate((0.3, 0.6, 0.9)):
        place = column.data_page_offset + int(column.total_compressed_size * share)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << turn
        (folder / "x.parquet").write_bytes(bytes(flipped))
        pq.read_table(folder / "x.parquet")  # unchecked, the flip is another number
        with pytest.raises(SparkscoreError) as caught:
            pipeline().peek(spark, rows=2_000)
        assert (caught.value.code, caught.value.exit_code) == ("SPS-DATA-FILE", 6), str(caught.value)
        assert caught.value.context["file"].endswith("x.parquet")


@pytest.fixture
def lossy_session(spark):
    """A session that is told to skip what it cannot read, as some clusters set it for all their jobs."""
    names = [f"spark.sql.files.ignore{what}Files" for what in ("Corrupt", "Missing")]
    for name in names:
        spark.conf.set(name, "true")
    yield
    for name in names:
        spark.conf.unset(name)


def refused_as_damaged(spark, pipeline, **keys) -> None:
    with pytest.raises(SparkscoreError) as caught:
        pipeline(**keys).run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-DATA-FILE", 6), str(caught.value)


def test_a_session_that_ignores_corrupt_files_loses_no_row_of_a_cut_csv(spark, pipeline, tmp_path, lossy_session):
    (tmp_path / "in").mkdir()
    lines = "\n".join(f"{i},{i % 97},{i % 13},{i * 7919 % 7}" for i in range(5_000))
    (tmp_path / "in" / "x.csv.gz").write_bytes(gzip.compress(lines.encode()))
    truncated(tmp_path / "in" / "x.csv.gz")
    schema = "id bigint, a float, b float, c float"
    source = {"format": "csv", "schema": schema, "location": str(tmp_path / "in")}
    refused_as_damaged(spark, pipeline, source=source)


def test_nor_of_parquet_pages_that_were_changed_where_no_footer_tells_the_rows(
    spark, pipeline, tmp_path: Path, lossy_session
) -> None:
    folder = Path(write_rows(tmp_path / "in", 0, 1))
    table = pa.table({"id": np.arange(2_000), **{n: np.linspace(1, 2, 2_000, dtype=np.float32) for n in "abc"}})
    path = folder / "part-000.parquet"
    pq.write_table(table, path, write_page_checksum=True, compression=None, use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    flipped = bytearray(path.read_bytes())
    flipped[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(bytes(flipped))
    source = {"format": "parquet", "location": str(folder), "where": "id >= 0"}
    refused_as_damaged(spark, pipeline, source=source)


def test_such_a_session_is_refused_where_only_deltas_reader_can_read(spark, pipeline, tmp_path, lossy_session) -> None:
    place = str(tmp_path / "in")
    rows = spark.range(20).selectExpr("id", "float(1) a", "float(1) b", "float(1) c")
    rows.write.format("delta").option("delta.enableDeletionVectors", "true").save(place)
    spark.sql(f"DELETE FROM delta.`{place}` WHERE id = 3")
    with pytest.raises(SparkscoreError, match=r"spark\.sql\.files\.ignoreCorruptFiles") as caught:
        pipeline(source={"format": "delta", "location": place}).run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-SPEC-VALUE", 2)


@pytest.fixture
def between_plan_and_unit(monkeypatch):
    """Do something after the plan is written and the run is claimed, before the first unit."""

    def arrange(action) -> None:
        opened = attempt.Attempt._open

        def open_and_act(self) -> None:
            opened(self)
            action()

        monkeypatch.setattr(attempt.Attempt, "_open", open_and_act)

    return arrange


def test_a_file_that_vanished_after_the_plan_stops_its_unit(spark, pipeline, tmp_path, between_plan_and_unit) -> None:
    folder = Path(write_rows(tmp_path / "in", 100, 4))
    kept = (folder / "part-002.parquet").read_bytes()
    between_plan_and_unit((folder / "part-002.parquet").unlink)
    with pytest.raises(SparkscoreError) as caught:
        pipeline().run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-DATA-GONE", 6)
    assert "part-002.parquet is gone" in caught.value.message
    assert not (tmp_path / "out").exists()
    assert kept


def test_a_file_that_changed_after_the_plan_stops_its_unit(spark, pipeline, tmp_path, between_plan_and_unit) -> None:
    folder = Path(write_rows(tmp_path / "in", 100, 4))
    between_plan_and_unit(lambda: (folder / "part-001.parquet").write_bytes((folder / "part-000.parquet").read_bytes()))
    with pytest.raises(SparkscoreError) as caught:
        pipeline().run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-DATA-DRIFT", 6)
    assert "part-001.parquet" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_file_that_vanishes_while_its_unit_is_read_is_gone_not_empty(spark, pipeline, tmp_path, monkeypatch) -> None:
    folder = Path(write_rows(tmp_path / "in", 100, 4))
    checked = attempt.Attempt._assert_unchanged

    def check_then_lose(self, unit) -> None:
        checked(self, unit)
        (folder / "part-003.parquet").rename(tmp_path / "elsewhere.parquet")

    monkeypatch.setattr(attempt.Attempt, "_assert_unchanged", check_then_lose)
    with pytest.raises(SparkscoreError) as caught:
        pipeline().run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-DATA-GONE", 6), str(caught.value)
    assert "part-003.parquet" in str(caught.value)

    (tmp_path / "elsewhere.parquet").rename(folder / "part-003.parquet")
    monkeypatch.undo()
    assert pipeline().run(spark, run_id="r1").summary().ok_rows == 100  # restored as it was: the run goes on
    assert delta_rows(tmp_path / "out").num_rows == 100
