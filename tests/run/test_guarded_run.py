"""A row that kills the Python worker: Spark tries the task again, guarded, and the run ends without that row alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkscore as ss
from tests.run.conftest import delta_rows, expected_score, linear_model, write_rows

# In ONNX Runtime's own call, in every process of the run: the first attempt's worker and the second one's child.
PLANT = """
import os, signal
import onnxruntime

def run(self, names, feeds, options=None):
    if (feeds["x"] == -2.0).any(): os.kill(os.getpid(), signal.SIGKILL)
    return call(self, names, feeds, options)

call = onnxruntime.InferenceSession.run
onnxruntime.InferenceSession.run = run
"""
RUN = """
import json, sys
from sparkscore.run.pipeline import Pipeline
from sparkscore.spark.sessions import local_session
spark = local_session("local[2,4]")
print(str(Pipeline.load(json.loads(sys.argv[1])).run(spark, run_id="r1").summary().exit_code))
"""


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


@pytest.mark.spark
@pytest.mark.slow
def test_a_row_that_kills_its_worker_is_the_only_one_quarantined(planted: str, document, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, json.dumps(document())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout.split()[-1:] == ["0"], done.stderr[-3000:]
    assert "Python worker exited unexpectedly" in done.stderr  # the first attempt was not spared

    rows = {row["id"]: row for row in delta_rows(tmp_path / "out").to_pylist()}
    assert {i: row["score"] for i, row in rows.items() if i != 77} == {
        i: expected_score(i) for i in range(400) if i != 77
    }
    assert (rows[77]["score"], rows[77]["_ss"]["error_code"]) == (None, "SPS-ROW-CRASH")
    assert (rows[77]["_ss"]["error_type"], rows[77]["_ss"]["error_class"]) == ("signal 9", "P6")
    receipts = [json.loads(p.read_text()) for p in (tmp_path / "out_ledger" / "receipts").rglob("*.json")]
    assert sum(receipt["guard_deaths"] for receipt in receipts) > 0
