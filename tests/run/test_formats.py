"""The same rows in another format get the same scores, bit by bit, and addresses of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from sparkscore.errors import SparkscoreError
from tests.run.conftest import delta_rows, expected_score, write_rows

pytestmark = pytest.mark.spark

ROWS, BAD = 200, 17
_PARTS = {"id": ("BIGINT", 1), "a": ("FLOAT", 2), "b": ("FLOAT", 3), "c": ("FLOAT", 4)}
_FROM_LINE = {n: f"TRY_CAST(split_part(value, ',', {part}) AS {kind})" for n, (kind, part) in _PARTS.items()}
_FROM_PATH = {"id": "CAST(split_part(substring_index(path, 'row-', -1), '.', 1) AS BIGINT)"}


def _as_orc(table: pa.Table, folder: Path) -> dict[str, Any]:
    for part in range(2):
        orc.write_table(table.slice(part * ROWS // 2, ROWS // 2), folder / f"part-{part}.orc")
    return {"source": {"format": "orc", "location": str(folder)}}


def _as_text(table: pa.Table, folder: Path) -> dict[str, Any]:
    lines = [",".join("" if v is None else str(v) for v in row.values()) for row in table.to_pylist()]
    (folder / "rows.txt").write_text("\n".join(lines) + "\n")
    return {"source": {"format": "text", "location": str(folder)}, "prepare": [{"with": _FROM_LINE}]}


def _as_files(table: pa.Table, folder: Path) -> dict[str, Any]:
    for row in table.to_pylist():
        cells = [row["a"], row["b"], row["c"]][: 2 if row["a"] is None else 3]
        (folder / f"row-{row['id']}.bin").write_bytes(np.array([v or 0 for v in cells], "<f4").tobytes())
    source = {"format": "binaryFile", "location": str(folder), "options": {"pathGlobFilter": "*.bin"}}
    inputs = {"x": {"column": "content", "shape": [3]}}
    return {"source": source, "inputs": inputs, "prepare": [{"with": _FROM_PATH}]}


@pytest.mark.parametrize(
    ("write", "basis", "code"),
    [(_as_orc, "footer", "SPS-ROW-NULL"), (_as_text, "receipt", "SPS-ROW-NULL"), (_as_files, "count", "SPS-ROW-SHAPE")],
)
def test_the_same_rows_in_another_format_get_the_same_scores(
    spark, pipeline, tmp_path: Path, write: Callable[..., dict[str, Any]], basis: str, code: str
) -> None:
    write_rows(tmp_path / "rows", ROWS, 1, bad=lambda i: i == BAD)
    (tmp_path / "in").mkdir()
    keys = write(pq.read_table(tmp_path / "rows"), tmp_path / "in")
    run = pipeline(**keys, keep=["id"], keys=[]).run(spark, run_id="r1")

    rows = delta_rows(tmp_path / "out").to_pylist()
    assert {r["id"]: r["score"] for r in rows} == {i: None if i == BAD else expected_score(i) for i in range(ROWS)}
    assert len(rows) == ROWS == len({r["_ss"]["source_pointer"] for r in rows})
    assert run.summary().quarantined_by_code == {code: 1}
    runs = spark.read.format("delta").load(f"{run.summary().ledger}/tables/runs").collect()
    assert [(row.planned_rows, row.balance_basis) for row in runs] == [(ROWS, basis)]


def test_a_damaged_orc_file_and_one_without_a_column_are_named(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", ROWS, 1)
    (tmp_path / "in").mkdir()
    table = pq.read_table(tmp_path / "rows")
    keys = _as_orc(table, tmp_path / "in")
    second = tmp_path / "in" / "part-1.orc"
    orc.write_table(table.drop_columns("c"), second)
    with pytest.raises(SparkscoreError, match=r"SPS-DATA-COLUMN.*part-1\.orc.*column c"):
        pipeline(**keys).run(spark, run_id="r1")
    second.write_bytes(second.read_bytes()[:-40])
    with pytest.raises(SparkscoreError, match=r"SPS-DATA-FILE.*part-1\.orc"):
        pipeline(**keys).run(spark, run_id="r2")
