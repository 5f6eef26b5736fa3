"""Malformed lines of CSV and JSON: exactly they are quarantined, by file and place; the others' values are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from tests.run.conftest import delta_rows, expected_score

pytestmark = pytest.mark.spark

SCHEMA = "id bigint, a float, b float, c float"
BEARABLE = {"max_fraction": 1.0}


def values(i: int) -> tuple[int, int, int, int]:
    return i, i % 97, i % 13, i % 7


def csv_line(i: int) -> str:
    return ",".join(map(str, values(i)))


def json_line(i: int) -> str:
    return json.dumps(dict(zip(("id", "a", "b", "c"), values(i), strict=True)))


CSV_BAD = {40: "40,1,2", 77: "77,1,2,3,4", 130: "x,1,2,3", 199: "199,one,2,3"}
JSON_BAD = {40: '{"id": 40, "a": 1', 77: "no json", 130: '{"id": "x", "a": 1}', 199: "[1, 2]"}


def addressed(row) -> tuple[str, int, int]:
    """Take an address apart: file, byte offset of the split, ordinal of the row within it."""
    file, _, place = row["_ss"]["source_pointer"].rpartition("#")
    block, ordinal = place.split("+")
    return file.rpartition("/")[2], int(block), int(ordinal)


@pytest.fixture
def in_small_splits(spark):
    """Cut files every 300 bytes, so that lines are read by several tasks."""
    old = spark.conf.get("spark.sql.files.maxPartitionBytes")
    spark.conf.set("spark.sql.files.maxPartitionBytes", "300")
    spark.conf.set("spark.sql.files.openCostInBytes", "1")
    yield
    spark.conf.set("spark.sql.files.maxPartitionBytes", old)
    spark.conf.unset("spark.sql.files.openCostInBytes")


@pytest.mark.parametrize(("kind", "where"), [("csv", None), ("csv", "id % 2 = 0"), ("json", None)])
def test_exactly_the_malformed_lines_are_quarantined_where_they_stand(
    spark, pipeline, tmp_path: Path, in_small_splits, kind: str, where: str | None
) -> None:
    line, bad, options = (csv_line, CSV_BAD, {"header": "true"}) if kind == "csv" else (json_line, JSON_BAD, {})
    folder = tmp_path / "in"
    folder.mkdir()
    lines = {part: [bad.get(i, line(i)) for i in range(part * 120, part * 120 + 120)] for part in range(2)}
    for part, found in lines.items():
        head = ["id,a,b,c"] if kind == "csv" else []
        (folder / f"{part}.{kind}").write_text("\n".join([*head, *found]) + "\n")
    source = {"format": kind, "schema": SCHEMA, "options": options, "location": str(folder)}
    source |= {"where": where} if where else {}
    run = pipeline(source=source, on_error=BEARABLE).run(spark, run_id="r1")

    rows = delta_rows(tmp_path / "out").to_pylist()
    good = {r["id"]: r["score"] for r in rows if r["_ss"]["status"] == "ok"}
    wanted = [i for i in range(240) if i not in bad and (where is None or i % 2 == 0)]
    assert good == {i: expected_score(i) for i in wanted}

    wrong = [r for r in rows if r["_ss"]["status"] == "error"]
    assert [(r["_ss"]["error_code"], r["_ss"]["stage"]) for r in wrong] == [("SPS-ROW-DECODE", "read")] * 4
    places = [addressed(r) for r in wrong]
    assert len(set(places)) == 4
    assert sorted(name for name, *_ in places) == sorted(f"{i // 120}.{kind}" for i in bad)
    assert any(block > 0 for _, block, _ in places)  # several splits a file
    if where is None:
        for name, block, ordinal in places:
            assert line_at(folder / name, block, ordinal, header=kind == "csv") in bad.values()
    assert run.summary().quarantined_by_code == {"SPS-ROW-DECODE": 4}
    assert run.summary().ok_rows == len(wanted)


def test_a_line_that_is_not_utf8_is_one_bad_row_and_its_bytes_are_kept(spark, pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json_line(i).encode() for i in range(10)]
    lines[4] = b'{"id": 4, "a": 1, "name": "caf\xe9'
    (folder / "x.json").write_bytes(b"\n".join(lines))
    source = {"format": "json", "schema": SCHEMA, "location": str(folder)}
    quarantine = {"location": str(tmp_path / "bad"), "payload": "plain"}
    summary = pipeline(source=source, on_error=BEARABLE, quarantine=quarantine).run(spark, run_id="r1").summary()
    assert (summary.ok_rows, summary.quarantined_by_code) == (9, {"SPS-ROW-DECODE": 1})
    (bad,) = delta_rows(tmp_path / "bad").to_pylist()
    line = json.loads(bad["payload"])["_ss_corrupt"]
    assert line.encode("utf-8", "surrogateescape") == lines[4]


def line_at(path: Path, block: int, ordinal: int, header: bool) -> str:
    """Read the line at an address: a split begins after the first line end at or behind its offset (Hadoop's rule)."""
    data = path.read_bytes()
    start = 0 if block == 0 else data.index(b"\n", block) + 1
    skip = 1 if block == 0 and header else 0
    return data[start:].split(b"\n")[ordinal + skip].decode()


def test_a_header_with_swapped_columns_is_refused_not_read_by_position(spark, pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.csv").write_text("id,a,b,c\n1,1,2,3\n")
    (folder / "swapped.csv").write_text("id,b,a,c\n2,1,2,3\n")
    source = {"format": "csv", "schema": SCHEMA, "options": {"header": "true"}, "location": str(folder)}
    with pytest.raises(SparkscoreError) as caught:
        pipeline(source=source).run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-DATA-COLUMN", 6)
    assert caught.value.context["file"].endswith("swapped.csv")


def test_types_that_spark_infers_are_those_of_the_whole_source(spark, pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(2):
        text = "\n".join(["id,a,b,c", *(csv_line(i) for i in range(part * 50, part * 50 + 50))])
        (folder / f"{part}.csv").write_text(text)
    options = {"header": "true", "inferSchema": "true"}
    pipeline(source={"format": "csv", "options": options, "location": str(folder)}).run(spark, run_id="r1")
    scores = {r["id"]: r["score"] for r in delta_rows(tmp_path / "out").to_pylist()}
    assert scores == {i: expected_score(i) for i in range(100)}
