"""The look at files, in the workers that go on to score."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sparkscore.spark.footers import RESULT, Footers, parquet_footer

_WORKER = """
import sys
import pyarrow as pa
from sparkscore.runtime.arrow import texts
from sparkscore.spark.footers import Footers, parquet_footer
paths = pa.RecordBatch.from_arrays([texts(sys.argv[1:])], names=["path"])
(found,) = Footers(parquet_footer, (), False)(iter([paths]))
print(found.column("rows").to_pylist(), found.column("code").to_pylist(), "pandas" in sys.modules)
"""


def test_a_look_brings_no_pandas_into_a_worker_which_would_hold_it_while_it_scores(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "a.parquet")
    told = [sys.executable, "-c", _WORKER, str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    out = subprocess.run(told, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout
    assert out == "[3, None] [None, 'SPS-DATA-GONE'] False\n"


def test_no_paths_are_no_rows() -> None:
    empty = pa.record_batch([pa.array([], pa.string())], ["path"])
    (found,) = Footers(parquet_footer, (), False)(iter([empty]))
    assert (found.num_rows, found.schema) == (0, RESULT)
