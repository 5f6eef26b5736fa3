"""A database as the source: its rows are copied once, and whatever dies, each of them is scored once as it was then."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from deltalake import DeltaTable

from tests.e2e.killing import kill_at
from tests.postgres import PASSWORD, Postgres
from tests.run.conftest import expected_score, linear_model
from tests.run.test_sources import ROWS_IN_SQL

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(600)]

ROWS, BAD = 20_000, 4_321


@pytest.mark.turn(0, 3)
def test_a_driver_that_is_killed_goes_on_with_the_rows_as_they_were_copied(pg: Postgres, tmp_path: Path) -> None:
    pg.sql(ROWS_IN_SQL.format(last=ROWS - 1, bad=BAD))
    parts = {"partitionColumn": "id", "lowerBound": "0", "upperBound": str(ROWS), "numPartitions": "4"}
    command = _command(tmp_path, pg.source(dbtable="tx", **parts))
    kill_at(command, tmp_path / "out" / "_delta_log", 1, within_s=200)
    pg.sql("UPDATE tx SET a = -1; DELETE FROM tx WHERE id % 2 = 0")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

    summary = json.loads(done.stdout)
    assert (summary["ok_rows"], summary["quarantined_rows"], summary["attempt"]) == (ROWS - 1, 1, 2)
    assert summary["reused_units"] >= 1
    assert _rows(DeltaTable(tmp_path / "out").to_pyarrow_table()) == Counter(
        (i, "error" if i == BAD else "ok", None if i == BAD else np.float32(expected_score(i)).tobytes())
        for i in range(ROWS)
    )
    plan = json.loads((tmp_path / "ledger" / "plans" / "r1.json").read_text())
    assert (plan["planned_rows"], plan["balance_basis"]) == (ROWS, "footer")
    assert plan["input"]["copy"]["of"]["options"]["dbtable"] == "tx"
    assert len(list((tmp_path / "ledger" / "inputs" / "r1").iterdir())) == 1
    told = done.stdout + done.stderr
    assert PASSWORD not in told
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and PASSWORD.encode() in p.read_bytes()]


def test_scores_go_to_a_database_whose_password_is_in_no_file(pg: Postgres, tmp_path: Path) -> None:
    pg.sql(ROWS_IN_SQL.format(last=99, bad=7))
    source = pg.source(dbtable="tx")
    sink = {"format": "jdbc", **pg.source(dbtable="scores")}
    done = subprocess.run(_command(tmp_path, source, sink), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["quarantined_rows"] == 1
    assert pg.sql("SELECT count(*), count(score), count(DISTINCT id) FROM scores") == "100|99|100"
    assert PASSWORD not in done.stdout + done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and PASSWORD.encode() in p.read_bytes()]


def _command(folder: Path, source: dict[str, Any], sink: dict[str, Any] | None = None) -> list[str]:
    document = {
        "version": 1,
        "name": "t",
        "source": source,
        "model": {"uri": linear_model(folder / "linear.onnx")},
        "inputs": {"x": ["a", "b", "c"]},
        "outputs": {"score": "y[:, 0]"},
        "keys": ["id"],
        "sink": sink or {"format": "delta", "location": str(folder / "out")},
        "ledger": str(folder / "ledger"),
    }
    (folder / "p.yaml").write_text(yaml.safe_dump(document))
    return [sys.executable, "-m", "sparkscore", "score", str(folder / "p.yaml"), "--run-id", "r1", "--json"]


def _rows(table: pa.Table) -> Counter[tuple[object, ...]]:
    scores = [None if s is None else np.float32(s).tobytes() for s in table["score"].to_pylist()]
    status = table["_ss"].combine_chunks().field("status").to_pylist()
    return Counter(zip(table["id"].to_pylist(), status, scores, strict=True))
