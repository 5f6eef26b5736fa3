"""Workers whose Python lacks something end a run with one clear error, before anything is committed."""

from __future__ import annotations

import shutil
import subprocess
import sys
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


def _another_python() -> str:
    """Find a Python of another minor version that starts; skips the test where there is none."""
    beside = Path(sys.base_prefix).parent.glob("*3.1[0-4]*/bin/python3")
    for found in (shutil.which("python3.12"), shutil.which("python3.13"), *map(str, sorted(beside))):
        version = "import sys; print(sys.version_info[:2])"
        told = found and subprocess.run([found, "-c", version], capture_output=True, text=True, timeout=30)
        if told and told.returncode == 0 and told.stdout.strip() != str(sys.version_info[:2]):
            return str(found)
    pytest.skip("no other Python on this machine")


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("no onnxruntime", r"Expected the package onnxruntime in this Python. Got: No module named 'onnxruntime'"),
        ("no pyarrow", r"each worker's Python to have sparkscore .* Got .*(No module named|PACKAGE_NOT_INSTALLED)"),
        ("another version", r"the driver's minor version. Got .*different version: 3\.\d+ .*driver: 3\.\d+"),
        ("nowhere", r"Expected the Python of PYSPARK_PYTHON to start on every node. Got .*/nowhere/python"),
        ("broken", r"Expected the Python of PYSPARK_PYTHON to start on every node. Got .*no such interpreter"),
    ],
)
def test_a_python_that_cannot_score_is_named_with_its_remedy(
    spark, pipeline: Pipeline, python: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "nowhere" / "python"
    if python.startswith("no "):
        there = [name for name in ALL if python != f"no {name}"]
        found = Path(bare_python(tmp_path / "python", there))
    elif python == "another version":
        found = Path(_another_python())
    elif python == "broken":
        found.parent.mkdir()
        found.write_text("#!/bin/sh\necho no such interpreter >&2\nexit 127\n")
        found.chmod(0o755)
    # A test may: workers are started by the driver's own setting.
    monkeypatch.setattr(spark.sparkContext, "pythonExec", str(found))
    monkeypatch.setitem(spark.sparkContext.environment, "PYTHONPATH", str(ROOT))
    with pytest.raises(SparkscoreError, match=told) as raised:
        pipeline.run(spark, run_id="r1")
    assert (raised.value.code, raised.value.exit_code) == ("SPS-ENV-PACKAGE", 4)
    assert not list((tmp_path / "out").glob("_delta_log/*.json"))
