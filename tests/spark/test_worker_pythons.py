"""Workers whose Python lacks something end a run with one clear error, before anything is committed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.run.pipeline import Pipeline
from tests.clusters import ROOT, bare_python
from tests.run.conftest import linear_model, write_rows

pytestmark = pytest.mark.spark

ALL = ("numpy", "pyarrow", "pandas", "pytz", "dateutil", "six")


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    document = {
        "version": 1,
        "name": "t",
        "source": {"format": "parquet", "location": write_rows(tmp_path / "in", 100, 1)},
        "model": {"uri": linear_model(tmp_path / "linear.onnx")},
        "inputs": {"x": ["a", "b", "c"]},
        "sink": {"format": "delta", "location": str(tmp_path / "out")},
    }
    return Pipeline.load(document)


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("no onnxruntime", r"Expected the package onnxruntime in this Python. Got: No module named 'onnxruntime'"),
        ("no sparkscore", r"each worker's Python to have sparkscore .*No module named 'sparkscore'"),
        ("3.12", r"the driver's minor version. Got .*3\.12.*3\.11"),
        ("nowhere", r"Expected the Python of PYSPARK_PYTHON on every node. Got .*/nowhere/python"),
    ],
)
def test_a_python_that_cannot_score_is_named_with_its_remedy(
    spark, pipeline: Pipeline, python: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = spark.sparkContext  # a test may: workers are started by the driver's own setting
    found = {"nowhere": str(tmp_path / "nowhere" / "python"), "3.12": shutil.which("python3.12")}
    if python not in found:
        found[python] = bare_python(tmp_path / "python", ALL)
    if found[python] is None:
        pytest.skip("no Python 3.12 on this machine")
    monkeypatch.setattr(context, "pythonExec", found[python])
    if python == "no onnxruntime":
        monkeypatch.setitem(context.environment, "PYTHONPATH", str(ROOT))
    with pytest.raises(SparkscoreError, match=told) as raised:
        pipeline.run(spark, run_id="r1")
    assert (raised.value.code, raised.value.exit_code) == ("SPS-ENV-PACKAGE", 4)
    assert not (tmp_path / "out" / "_delta_log").exists()
