"""Places that this version cannot work in are refused by name, before anything is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.run.planning import bound
from sparkscore.spec.pipeline import load_pipeline

_DOCUMENT = """
version: 1
name: t
source: {{format: parquet, location: "{source}"}}
model: {{uri: nowhere.onnx}}
inputs: {{x: [a]}}
sink: {{format: delta, location: "{sink}"}}
ledger: /tmp/ledger
"""
_PLAIN_SPARK = """
import sys
from pyspark.sql import SparkSession
from sparkscore.spark.delta_log import history
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
try:
    history(spark, sys.argv[1], limit=1)
except Exception as failure:
    print(failure.exit_code, failure)
"""


@pytest.mark.parametrize(
    ("source", "sink"), [("abfss://c@n/in", "/out"), ("/in", "s3n://b/out"), ("s3a://b/in", "gs://b/out")]
)
def test_a_store_without_the_atomicity_of_a_disk_is_refused(source: str, sink: str) -> None:
    pipeline = load_pipeline(_DOCUMENT.format(source=source, sink=sink))
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-LATER.*location on a local or mounted disk, S3 or HDFS"):
        bound(None, pipeline)


@pytest.mark.spark
def test_a_session_without_delta_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PLAIN_SPARK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("4 [SPS-ENV-PACKAGE] Expected a Spark session with Delta."), done.stderr[-1000:]
