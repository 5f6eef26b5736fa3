"""Commits of units: the `_ss` struct of their rows, and the entry of Delta's log by which one is found again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.spark.commit import Commit, _refuse_other_files, commits_of, own_commit, with_ss, write_unit
from sparkscore.spark.delta_log import DeltaTable
from sparkscore.spec.sink import Sink
from sparkscore.tables import ERR, SS

pytestmark = pytest.mark.spark

AT = datetime(2026, 11, 27, 1, 2, 3, 456789, tzinfo=UTC)
CONSTANTS = {"run_id": "r1", "unit_seq": 3, "model_version": 'it\'s \\ "7" `é`', "scored_at": AT}


@pytest.fixture
def rows(spark):
    err = f"struct<{', '.join(f'{c.name}: {c.type}' for c in ERR)}>"
    good, first, bad = ("NULL", "NULL"), ("NULL", "17"), (f"CAST(struct({_error('SPS-ROW-NULL')}) AS {err})", "NULL")
    cells = ", ".join(f"({i}, CAST({e} AS {err}), CAST({t} AS BIGINT))" for i, (e, t) in enumerate((good, first, bad)))
    # Behind a condition that Spark does not fold, so that the rows are not computed while the query is planned.
    scored = spark.sql(f"SELECT * FROM VALUES {cells} AS t(id, err, _ss_task) WHERE rand() >= 0")
    return with_ss(scored, CONSTANTS).orderBy("id").collect()


def _error(code: str) -> str:
    return ", ".join(f"'{code}'" if c.name == "error_code" else "NULL" for c in ERR)


def test_it_stands_first_and_the_helper_columns_are_gone(rows) -> None:
    assert rows[0].__fields__ == ["_ss", "id"]
    given = {"status", "task_attempt_id", *(c.name for c in ERR), *CONSTANTS}
    assert rows[0]["_ss"].__fields__ == [c.name for c in SS if c.name in given]


def test_every_row_has_the_constants_whatever_stands_in_a_text(rows) -> None:
    for row in rows:
        assert {name: row["_ss"][name] for name in ("run_id", "unit_seq", "model_version")} == {
            name: CONSTANTS[name] for name in ("run_id", "unit_seq", "model_version")
        }
        assert row["_ss"]["scored_at"].astimezone(UTC) == AT


def test_status_error_and_task_id_are_the_rows_own(rows) -> None:
    own = [(r["_ss"]["status"], r["_ss"]["error_code"], r["_ss"]["task_attempt_id"]) for r in rows]
    assert own == [("ok", None, None), ("ok", None, 17), ("error", "SPS-ROW-NULL", None)]


@pytest.fixture
def committed(spark, tmp_path: Path) -> Path:
    """A sink with one commit of the run r1."""
    sink = Sink(format="delta", location=str(tmp_path / "sink"))
    write_unit(spark.range(3), sink, Commit(-1, 0, "u0", 2), "r1", "p0")
    return tmp_path / "sink"


def test_the_commit_of_this_session_is_found_in_its_entry_as_in_the_history(spark, committed: Path) -> None:
    assert own_commit(spark, DeltaTable(str(committed)), "r1") == Commit(0, 0, "u0", 2)
    assert commits_of(spark, DeltaTable(str(committed)), "r1") == [Commit(0, 0, "u0", 2)]


def test_an_entry_that_is_not_ours_any_more_is_no_answer(spark, committed: Path) -> None:
    assert own_commit(spark, DeltaTable(str(committed)), "r2") is None
    entry = committed / "_delta_log" / f"{0:020d}.json"
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    for line in lines:
        line.get("commitInfo", {})["userMetadata"] = json.dumps({"run_id": "r9", "unit_seq": 0})
    entry.write_text("\n".join(json.dumps(line) for line in lines))
    assert own_commit(spark, DeltaTable(str(committed)), "r1") is None
    entry.write_text('{"commitInfo": {"userMeta')
    assert own_commit(spark, DeltaTable(str(committed)), "r1") is None
    entry.unlink()
    assert own_commit(spark, DeltaTable(str(committed)), "r1") is None


def test_a_later_commit_of_the_session_to_another_table_is_no_answer(spark, committed: Path, tmp_path: Path) -> None:
    for _ in range(2):
        spark.range(1).write.format("delta").mode("append").save(str(tmp_path / "other"))
    assert own_commit(spark, DeltaTable(str(committed)), "r1") is None
    assert own_commit(spark, DeltaTable("gs://no-store-that-python-reads/x"), "r1") is None


def test_files_of_a_run_that_died_before_the_first_commit_are_no_hindrance_and_others_are(tmp_path: Path) -> None:
    """Delta 4.4 names its files as Spark does, so their columns tell them apart."""
    name = "part-00000-7e2a3968-3d8e-40dc-8abb-5f66a47b76f7-c000.snappy.parquet"
    pq.write_table(pa.table({"_ss": [{"status": "ok"}], "id": [1]}), tmp_path / name)
    (tmp_path / name.replace("00000", "00001")).write_bytes(b"PAR1 cut off")
    _refuse_other_files(str(tmp_path))
    pq.write_table(pa.table({"id": [1]}), tmp_path / name.replace("00000", "00002"))
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-SINK.*part-00002"):
        _refuse_other_files(str(tmp_path))


_COLUMNS = ["id", "'x' AS `a-b`", "1.5D AS `d.e`", "DATE'2026-01-01' AS day", "array(1.0) AS v", "true AS flag"]


def test_a_new_table_keeps_statistics_of_what_is_asked_for_and_one_that_is_there_its_own(spark, tmp_path: Path) -> None:
    error = f"CAST(NULL AS struct<{', '.join(f'{c.name}: {c.type}' for c in ERR)}>) AS err"
    scored = spark.range(2).selectExpr(*_COLUMNS, error, "CAST(NULL AS BIGINT) AS _ss_task")
    frame = with_ss(scored, {**CONSTANTS, "unit_id": "u"})
    sink = Sink(format="delta", location=str(tmp_path), partition_by=["day"])
    DeltaTable(f"{tmp_path}/new", "").write(frame, {}, sink)
    of_ss = ["run_id", "scored_at", "status", "unit_id", "unit_seq"]
    assert _statistics_of(tmp_path / "new") == {"_ss": of_ss, "a-b": None, "d.e": None, "id": None}
    frame.write.format("delta").partitionBy("day").save(f"{tmp_path}/there")
    DeltaTable(f"{tmp_path}/there", "").write(frame, {}, sink)
    assert set(of_ss) < set(_statistics_of(tmp_path / "there")["_ss"])


def _statistics_of(table: Path) -> dict[str, list[str] | None]:
    """Name the columns whose least values the newest commit has, those of a struct by its fields."""
    log = max((table / "_delta_log").glob("*.json")).read_text()
    (least,) = [json.loads(a["add"]["stats"])["minValues"] for a in map(json.loads, log.splitlines()) if "add" in a][:1]
    return {name: sorted(value) if isinstance(value, dict) else None for name, value in sorted(least.items())}
