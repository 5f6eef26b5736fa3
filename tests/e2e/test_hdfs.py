"""A pipeline whose source, model, labels, sink, quarantine and ledger are all on a real HDFS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sparkscore.run.pipeline import Pipeline
from sparkscore.runtime import files
from tests.e2e.killing import kill_at
from tests.e2e.scenario import bad_rows, document, put_up, scored_rows, second_reader
from tests.hdfs import HdfsServer

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.hdfs, pytest.mark.timeout(600)]

ROWS, UNITS, EVERY = 20_000, 2, 1_000  # a file of 10,000 rows is a unit; one row in a thousand is bad


@pytest.mark.turn(0, 3)
def test_a_run_on_hdfs_that_is_killed_resumes_to_the_bits_of_a_run_on_a_disk(
    spark, hdfs: HdfsServer, tmp_path: Path
) -> None:
    disk, root = tmp_path / "disk", f"{hdfs.root}/lake"
    put_up(disk, ROWS, UNITS, EVERY, root)
    Pipeline.load(document(str(disk))).run(spark, run_id="r1")

    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document(root)))
    command = [sys.executable, "-m", "sparkscore", "score", str(tmp_path / "p.yaml"), "--run-id", "r1", "--json"]
    kill_at(command, f"{root}/out/_delta_log", 1, within_s=200)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

    summary = json.loads(done.stdout)
    assert (summary["ok_rows"], summary["quarantined_rows"], summary["attempt"]) == (ROWS - 20, 20, 2)
    assert summary["reused_units"] >= 1
    assert summary["scan_reason"].startswith("FILESYSTEM hdfs://")
    for name, judged in (("out", scored_rows), ("bad", bad_rows)):
        assert judged(second_reader(f"{root}/{name}", tmp_path)) == judged(second_reader(f"{disk}/{name}", tmp_path))
    assert "SUCCEEDED" in second_reader(f"{root}/ledger/tables/runs", tmp_path)["state"].to_pylist()
    assert not [f.uri for f in files.list_files(root) if "/_lease/" in f.uri]  # HDFS takes several writers
