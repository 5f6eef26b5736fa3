"""Single bits flipped in the pages of Parquet files: each is caught, or the rows are proved to be the same."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.spark.failures import mapped
from sparkscore.spark.sources import Snapshot, pin_source, read_files

pytestmark = [pytest.mark.spark, pytest.mark.slow]

FLIPS, ROWS, SEED = 60, 2_000, 20
COLUMNS = ["id", "a", "b", "c", "text"]
LAYOUTS = (
    {"compression": "snappy", "data_page_version": "1.0"},
    {"compression": "zstd", "data_page_version": "2.0"},
    {"compression": None, "use_dictionary": False},
)
# More than a page's header has. Checksums cover bodies: a changed count in a header lets Spark 4.2 read for ever
# (VectorizedRleValuesReader.readBatch, 2026-11-27).
HEADER_BYTES = 100


def rows() -> pa.Table:
    rng = np.random.default_rng(SEED)
    numbers = {name: rng.random(ROWS, np.float32) for name in "ab"}
    texts = [f"text {i}" for i in rng.integers(0, ROWS, ROWS)]
    return pa.table({"id": np.arange(ROWS), **numbers, "c": rng.integers(0, 9, ROWS).astype(np.float32), "text": texts})


def flipped(path: Path, rng: random.Random) -> None:
    """Flip one bit of a file, in the body of a column's dictionary page or of its data page."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(rng.randrange(len(COLUMNS)))
    begin = column.dictionary_page_offset or column.data_page_offset
    end = begin + column.total_compressed_size
    headers = [range(page, page + HEADER_BYTES) for page in (begin, column.data_page_offset)]
    place = rng.choice([at for at in range(begin, end) if not any(at in header for header in headers)])
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def test_of_60_flips_none_changes_a_row_unseen(spark, pipeline, tmp_path: Path) -> None:
    folder, whole, rng = tmp_path / "in", rows(), random.Random(SEED)
    folder.mkdir()
    paths = [folder / f"{i:03d}.parquet" for i in range(FLIPS)]
    for i, path in enumerate(paths):
        pq.write_table(whole, path, write_page_checksum=True, **LAYOUTS[i % len(LAYOUTS)])
        flipped(path, rng)
    snapshot, _ = pin_source(spark, pipeline(source={"format": "parquet", "location": str(folder)}).spec.source)

    def ours(path: Path) -> str:
        return _verdict(lambda: _read(spark, snapshot, path), whole)

    def by_default(path: Path) -> str:
        return _verdict(lambda: spark.read.parquet(str(path)).select(COLUMNS).toArrow(), whole)

    with ThreadPoolExecutor(2) as pool:
        checked, unchecked = Counter(pool.map(ours, paths)), Counter(pool.map(by_default, paths[::3]))
    assert set(checked) <= {"caught", "the same rows"}, checked
    assert checked["caught"] >= 0.9 * FLIPS
    assert unchecked["another answer"] >= 0.25 * len(paths[::3])  # so much passes where nobody looks


def _read(spark, snapshot: Snapshot, path: Path) -> pa.Table:
    with mapped(spark):
        return read_files(spark, snapshot, [path.as_uri()]).select(COLUMNS).toArrow()


def _verdict(read, whole: pa.Table) -> str:
    try:
        found = read()
    except SparkscoreError as cause:
        return "caught" if cause.code == "SPS-DATA-FILE" else cause.code
    except Exception:  # boundary: Spark's own failure, of a reader without our option
        return "caught"
    return "the same rows" if found.cast(whole.schema).equals(whole) else "another answer"
