"""A row that kills its process, scored without Spark. In Spark's workers: tests/contract/test_places.py."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkscore as ss
from tests.contract.test_places import PLANT
from tests.run.conftest import linear_model, write_rows


@pytest.fixture
def planted(tmp_path: Path, monkeypatch) -> str:
    """Plant the fault in Pythons that start from now on; give the folder of 400 rows, of which row 77 kills."""
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "sitecustomize.py").write_text(PLANT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'plant'}{os.pathsep}{Path.cwd()}")
    folder = write_rows(tmp_path / "in", 400, 2)
    file = Path(folder) / "part-000.parquet"
    table = pq.read_table(file)
    cells = table["a"].to_pylist()
    cells[77] = -2.0
    pq.write_table(table.set_column(1, table.schema.field("a"), pa.array(cells, pa.float32())), file)
    return folder


@pytest.mark.slow
def test_score_local_guards_where_it_is_asked_to(planted: str, tmp_path: Path) -> None:
    model = linear_model(tmp_path / "linear.onnx")
    policy = {"guard": "always", "max_guard_deaths": 20}
    scored = ss.score_local(
        pq.read_table(planted), model, {"x": ["a", "b", "c"]}, {"score": "y[:, 0]"}, on_error=policy
    )
    rows = scored.to_pylist()
    assert [r["id"] for r in rows if r["err"]] == [77]
    assert (rows[77]["err"]["error_code"], rows[77]["err"]["error_type"]) == ("SPS-ROW-CRASH", "signal 9")
