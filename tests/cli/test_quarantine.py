"""Bad rows by the command line: shown and exported without their content, decrypted, requeued, erased, expired."""

from __future__ import annotations

import base64
import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sparkscore.runtime.sealing import MARK, q_id
from tests.run.conftest import delta_rows, write_rows

pytestmark = [pytest.mark.spark, pytest.mark.slow]

ROWS = 400
BAD = [7, 107, 207, 307]
KEY = base64.b64encode(bytes(range(32))).decode()
LENIENT = {"max_fraction": 0.5}


@pytest.fixture
def run(spark, sparkscore, pipeline_file, tmp_path: Path, monkeypatch) -> Any:
    """Score 400 rows, 4 of them bad, under a quarantine as asked; give the file of the pipeline."""
    monkeypatch.setenv("QUARANTINE_KEY", KEY)

    def scored(**quarantine: Any) -> Path:
        write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i in BAD)
        file = pipeline_file(quarantine={"location": str(tmp_path / "bad"), **quarantine}, on_error=LENIENT)
        told = sparkscore("score", file, "--run-id", "r1")
        assert told.exit_code == 0, told.err
        return file

    return scored


def test_encrypted_payloads_are_shown_and_exported_only_when_asked_and_by_their_key(
    run, sparkscore, tmp_path: Path, monkeypatch
) -> None:
    file = run(payload="encrypted", key="env:QUARANTINE_KEY")
    quarantine = delta_rows(tmp_path / "bad").to_pylist()
    in_sink = [r["_ss"] for r in delta_rows(tmp_path / "out").to_pylist() if r["_ss"]["status"] == "error"]
    for row in (*quarantine, *in_sink):
        assert row["payload"].startswith(MARK)
        assert row["payload_sha256"] is None
    for row in quarantine:
        assert row["payload_mode"] == "encrypted"
        assert row["q_id"] == q_id(row["run_id"], row["unit_id"], row["source_pointer"], row["stage"])

    assert "payload" not in sparkscore("quarantine", "show", "r1", file, "--json").json[0]
    assert '"b":' not in sparkscore("quarantine", "show", "r1", file, "--payload").out
    shown = sparkscore("quarantine", "show", "r1", file, "--decrypt", "--json").json
    assert sorted(json.loads(row["payload"])["id"] for row in shown) == BAD
    told = sparkscore("quarantine", "export", "r1", file, "--format", "csv", "--to", tmp_path / "csv", "--decrypt")
    assert told.out.startswith("run r1: 4 bad rows in "), told.err
    assert {json.loads(r["payload"])["id"] for r in _csv(tmp_path / "csv")} == set(BAD)
    assert {json.loads(r["keys"])["id"] for r in _csv(tmp_path / "csv")} == set(map(str, BAD))
    sparkscore("quarantine", "export", "r1", file, "--to", tmp_path / "parquet")
    (written,) = (tmp_path / "parquet").glob("*.parquet")
    assert "payload" not in pq.read_schema(written).names
    assert sparkscore("quarantine", "export", "r1", file, "--to", tmp_path / "csv").exit_code == 2

    monkeypatch.setenv("QUARANTINE_KEY", base64.b64encode(bytes(32)).decode())
    told = sparkscore("quarantine", "show", "r1", file, "--decrypt")
    assert (told.exit_code, "SPS-ENV-KEY" in told.err, KEY in told.err) == (4, True, False)
    assert sparkscore("score", file, "--run-id", "r1").exit_code == 0  # finished: nothing to encrypt
    monkeypatch.delenv("QUARANTINE_KEY")
    told = sparkscore("score", file, "--run-id", "r2")
    assert (told.exit_code, "env:QUARANTINE_KEY" in told.err) == (4, True)


def test_a_person_is_erased_and_what_is_due_expires_and_vacuum_takes_the_rest(
    run, spark, sparkscore, tmp_path: Path
) -> None:
    file = run(payload="plain", keep_days=3)
    assert sparkscore("quarantine", "erase", file, "--key", "nosuch=7").exit_code == 2
    told = sparkscore("quarantine", "erase", file, "--key", "id=107")
    assert told.out.startswith("1 quarantined rows emptied"), told.err
    assert f"DELETE FROM delta.`{tmp_path / 'out'}` WHERE CAST(`id` AS STRING) = '107'" in told.out
    spark.sql(told.out.splitlines()[-1])  # what it says to do is SQL that does it
    assert "107" in _said(tmp_path / "out")  # in the log of the user's own table, as the docs warn
    assert _left(tmp_path) == {7, 207, 307}
    assert "107" not in _said(tmp_path / "bad")
    assert 107 not in delta_rows(tmp_path / "out")["id"].to_pylist()

    rows = delta_rows(tmp_path / "bad").to_pylist()
    assert {(r["expires_at"] - r["first_seen_at"]).days for r in rows if r["state"] == "open"} == {3}
    assert sparkscore("quarantine", "expire", file, "--json").json == {"expired": {str(tmp_path / "bad"): 0}}
    table = f"delta.`{tmp_path / 'bad'}`"
    spark.sql(f"UPDATE {table} SET expires_at = current_timestamp() - INTERVAL 1 DAY WHERE keys['id'] = '7'")
    assert sparkscore("quarantine", "expire", file).out.startswith("1 expired rows emptied")
    assert _left(tmp_path) == {207, 307}
    assert sorted(r["state"] for r in delta_rows(tmp_path / "bad").to_pylist()) == ["expired"] * 2 + ["open"] * 2

    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    try:
        for place in ("bad", "out"):
            spark.sql(f"VACUUM delta.`{tmp_path / place}` RETAIN 0 HOURS")
    finally:
        spark.conf.unset("spark.databricks.delta.retentionDurationCheck.enabled")
    files = [pq.read_table(f).to_pylist() for f in (tmp_path / "bad").glob("*.parquet")]
    assert {json.loads(row["payload"])["id"] for rows in files for row in rows if row["payload"]} == {207, 307}
    assert sparkscore("score", file, "--run-id", "r1").exit_code == 0  # the run's own record stands


def test_requeue_scores_the_open_rows_once_and_a_second_call_does_nothing(
    run, sparkscore, pipeline_file, tmp_path: Path
) -> None:
    run()
    result = tmp_path / "result.json"
    mended = pipeline_file(prepare=[{"with": {"a": "coalesce(a, 0)"}}], quarantine={"location": str(tmp_path / "bad")})
    told = sparkscore("quarantine", "requeue", "r1", mended, "--result", result)
    assert told.exit_code == 0, told.err
    assert told.err.startswith("run r1.requeue-1\n")
    found = json.loads(result.read_text())
    assert (found["run_id"], found["planned_rows"], found["ok_rows"]) == ("r1.requeue-1", 4, 4)
    assert "already finished" in sparkscore("quarantine", "requeue", "r1", mended).out
    assert sparkscore("quarantine", "requeue", "r9", mended).exit_code == 2
    rows = delta_rows(tmp_path / "out").to_pylist()
    assert sorted(r["id"] for r in rows if r["_ss"]["status"] == "ok") == list(range(ROWS))
    assert {r["state"] for r in delta_rows(tmp_path / "bad").to_pylist()} == {"replayed_ok"}


def _left(tmp_path: Path) -> set[int]:
    rows = delta_rows(tmp_path / "bad").to_pylist()
    assert all((r["payload"] is None) == (not r["keys"]) == (r["source_pointer"] is None) for r in rows)
    return {json.loads(r["payload"])["id"] for r in rows if r["payload"]}


def _said(table: Path) -> set[str]:
    """Give the words of what a table's log says was done to it."""
    logs = "".join(file.read_text() for file in (table / "_delta_log").glob("*.json"))
    done = [json.loads(line).get("commitInfo", {}).get("operationParameters", {}) for line in logs.splitlines()]
    return set(re.findall(r"\w+", json.dumps(done)))


def _csv(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.glob("*.csv")
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))
