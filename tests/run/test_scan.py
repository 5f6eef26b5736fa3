"""A source that the workers read themselves gives the rows, bits and addresses that it gives by Spark; and why not.

Each case runs twice, `scan: fused` and `scan: map_in_arrow`.
"""

from __future__ import annotations

import datetime as dt
import math
from base64 import b64decode, b64encode
from collections import Counter
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyarrow.parquet import encryption

from sparkscore.errors import SparkscoreError
from sparkscore.run.planning import bound, make_plan
from sparkscore.run.scan import REMEDIES, choose, cut_tasks
from sparkscore.runtime.slices import read_slices
from sparkscore.spec.scoring import ROW_COL
from tests.run.conftest import delta_rows, write_rows

pytestmark = pytest.mark.spark

ODD = [math.nan, -math.nan, None, -0.0, 0.0, math.inf, -math.inf, 1.5, -1.5, 2.0**24, 1e-45]


def rows_by(pipeline, spark, tmp_path, scan, **keys) -> tuple[Counter[tuple[Any, ...]], dict[str, int] | None]:
    """Run, and give the sink's rows with the bits of their floats, and what `prepare` dropped."""
    sink = {"format": "delta", "location": str(tmp_path / f"out-{scan}"), "provenance": "full"}
    missing = {"null": "error", "nan": "allow", "inf": "allow"}
    run = pipeline(
        **{"scan": scan, "sink": sink, "missing": missing, "on_error": {"max_fraction": 1.0, "min_ok_rows": 0}, **keys}
    )
    summary = run.run(spark, run_id=scan).summary()
    assert summary.scan == scan
    return Counter(map(_frozen, delta_rows(tmp_path / f"out-{scan}").to_pylist())), summary.filtered_rows


def _frozen(row: dict[str, Any]) -> tuple[Any, ...]:
    ss = {n: row["_ss"][n] for n in ("status", "error_code", "error_message", "source_pointer", "payload_sha256")}
    return tuple(_bits(v) for v in [*ss.values(), *(v for k, v in row.items() if k != "_ss")])


def _bits(value: object) -> object:
    if isinstance(value, float):
        return np.float64(value).tobytes()
    return tuple(map(_bits, value)) if isinstance(value, list) else value


def assert_alike(pipeline, spark, tmp_path, rows: int, **keys) -> None:
    by_workers = rows_by(pipeline, spark, tmp_path, "fused", **keys)
    by_spark = rows_by(pipeline, spark, tmp_path, "map_in_arrow", **keys)
    assert by_workers == by_spark
    assert sum(by_workers[0].values()) == rows


def kept_table(n: int = 60) -> pa.Table:
    """Columns of every type that a fused scan takes, with nulls, beside those that feed the model."""
    at = [None if i % 7 == 3 else dt.datetime(1900 + i, 1, 2, 3, 4, 5, 6000 + i) for i in range(n)]
    texts = [None if i % 5 == 1 else "é\x00" * (i % 4) for i in range(n)]
    return pa.table(
        {
            "id": pa.array(range(n), pa.int64()),
            **{c: pa.array([ODD[(i + j) % len(ODD)] for i in range(n)], pa.float32()) for j, c in enumerate("abc")},
            "flag": pa.array([[True, False, None][i % 3] for i in range(n)]),
            **{f"i{b}": pa.array([None if i % 9 == 0 else i for i in range(n)], f"int{b}") for b in (8, 16, 32, 64)},
            **{f"u{b}": pa.array([None if i % 9 == 0 else i for i in range(n)], f"uint{b}") for b in (8, 16, 32)},
            "d": pa.array([ODD[i % len(ODD)] for i in range(n)], pa.float64()),
            "text": pa.array(texts),
            "large": pa.array(texts, pa.large_string()),
            "dict": pa.array(texts).dictionary_encode(),
            "bytes": pa.array([None if t is None else t.encode() for t in texts]),
            "day": pa.array([None if t is None else t.date() for t in at]),
            "utc": pa.array(at, pa.timestamp("us", "UTC")),
            "ms": pa.array([t and t.replace(microsecond=1000) for t in at], pa.timestamp("ms", "Europe/Berlin")),
            "local": pa.array(at, pa.timestamp("us")),
            "list": pa.array([[1.5, None, float(i)] if i % 3 else None for i in range(n)], pa.list_(pa.float32())),
            "money": pa.array([Decimal(i) / 100 for i in range(n)], pa.decimal128(9, 2)),
        }
    )


def test_every_type_is_read_alike(spark, pipeline, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table = kept_table().drop(["money"])
    pq.write_table(table.slice(0, 25), tmp_path / "in" / "a b%20ü.parquet", row_group_size=4)
    pq.write_table(table.slice(25, 0), tmp_path / "in" / "empty.parquet")
    pq.write_table(table.slice(25), tmp_path / "in" / "c.parquet", row_group_size=1, version="1.0")
    keep = [n for n in table.schema.names if n not in "abc"]
    assert_alike(pipeline, spark, tmp_path, 60, keep=keep)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("a > 0 AND NOT (b <= 1.5)", None),
        ("a = 1.5 OR a >= 2 OR c < 0", None),
        ("a <> 0 AND (b IS NOT NULL OR d BETWEEN -1.5 AND 2)", None),
        ("id IN (1, 2, 59) OR i8 > 300 OR u32 >= 58", 4),
        ("day >= DATE'1950-01-01' AND text <> '' AND NOT flag", None),
    ],
)
def test_a_where_keeps_the_rows_that_spark_keeps(spark, pipeline, tmp_path: Path, where: str, rows: int | None) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(kept_table(), tmp_path / "in" / "a.parquet", row_group_size=7)
    source = {"format": "parquet", "location": str(tmp_path / "in"), "where": where}
    expected = spark.read.parquet(str(tmp_path / "in")).where(where).count()
    assert rows in (None, expected)
    assert 0 < expected < 60
    assert_alike(pipeline, spark, tmp_path, expected, source=source)


def test_rows_that_prepare_drops_are_counted_alike(spark, pipeline, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(kept_table(), tmp_path / "in" / "a.parquet", row_group_size=7)
    source = {"format": "parquet", "location": str(tmp_path / "in"), "where": "id >= 3"}
    steps = [{"where": "b > 0"}, {"drop": ["utc"]}, {"where": "ID < 50 AND (flag OR flag IS NULL)"}]
    rows = spark.read.parquet(source["location"]).where("id >= 3 AND b > 0 AND id < 50 AND (flag OR flag IS NULL)")
    assert_alike(pipeline, spark, tmp_path, rows.count(), prepare=steps, source=source)


def test_a_partitioned_delta_table_with_columns_added_and_dropped_is_read_alike_at_its_version(
    spark, pipeline, tmp_path: Path
) -> None:
    table = str(tmp_path / "table")
    pq.write_table(kept_table(20).select(["id", "a", "b", "c"]), tmp_path / "a.parquet")
    frame = spark.read.parquet(str(tmp_path / "a.parquet"))
    places = "array('x y', '100%', 'ü/é', NULL)"
    parts = frame.selectExpr("*", f"element_at({places}, CAST(id % 4 + 1 AS INT)) AS Place", "CAST(id % 3 AS INT) AS n")
    more = ("IF(id = 6, NULL, n) AS n", "IF(id = 5, NULL, DATE'2020-01-01' + n) AS day")
    parts = parts.selectExpr("* EXCEPT (n)", *more, "IF(id = 7, NULL, id % 2 = 0) AS even")
    write = parts.write.format("delta").partitionBy("Place", "n", "day", "even")
    write.save(table)
    added = parts.selectExpr("id + 100 AS id", "a", "b", "c", "Place", "n", "day", "even", "'new' AS later")
    added.write.format("delta").mode("append").option("mergeSchema", "true").save(table)
    spark.sql(f"DELETE FROM delta.`{table}` WHERE id < 1000")
    source = {"format": "delta", "location": table, "version": 1}
    assert_alike(pipeline, spark, tmp_path, 40, source=source, keep=["id", "place", "n", "day", "even", "later"])


def rows_read(pipeline, spark, **keys) -> Counter[tuple[Any, ...]]:
    """Give the rows that workers read, with their files; a run scores these."""
    job = bound(spark, pipeline(scan="fused", **keys).spec)
    plan = make_plan(spark, job, "r")
    scan = choose(spark, job, plan).scan
    slices = chain.from_iterable(cut_tasks(spark, [file for unit in plan.units for file in unit.files], 2))
    batches = (batch.drop_columns(ROW_COL) for batch in read_slices(scan, list(slices)))
    return Counter(tuple(map(_bits, row.values())) for batch in batches for row in batch.to_pylist())


@pytest.mark.slow
def test_versions_behind_a_checkpoint_of_each_kind_are_read_alike(spark, pipeline, tmp_path: Path) -> None:
    """In one file, in several, and a manifest with sidecars (`v2`); the log begins behind the first of them."""
    table, log = str(tmp_path / "table"), tmp_path / "table" / "_delta_log"
    place = "element_at(array('x y', '100%', NULL), CAST(id % 3 + 1 AS INT)) AS place"
    values = [f"CAST(id % {n} AS FLOAT) AS {name}" for n, name in ((7, "a"), (5, "b"), (3, "c"))]
    rows = [spark.range(k, k + 9, 1, 1).selectExpr("id", *values, place).write.format("delta") for k in (0, 10, 20)]
    rows[0].partitionBy("place").option("delta.checkpointInterval", "1").save(table)
    rows[1].mode("append").save(table)
    spark.conf.set("spark.databricks.delta.checkpoint.partSize", "5")
    try:
        rows[2].mode("append").save(table)
    finally:
        spark.conf.unset("spark.databricks.delta.checkpoint.partSize")
    spark.sql(f"ALTER TABLE delta.`{table}` SET TBLPROPERTIES ('delta.checkpointPolicy' = 'v2')")
    spark.sql(f"DELETE FROM delta.`{table}` WHERE id = 4")
    written = [name.split(".", 1) for name in sorted(p.name for p in log.glob("0*.checkpoint.*"))]
    files_of = Counter(int(version) for version, _ in written)
    assert (files_of[1], files_of[2] > 1, files_of[4]) == (1, True, 1)
    assert list((log / "_sidecars").glob("*.parquet"))
    (log / f"{0:020d}.json").unlink()
    columns = ["a", "b", "c", "id", "place", "_metadata.file_path"]
    for version, count in ((1, 18), (2, 27), (4, 26)):
        source = {"format": "delta", "location": table, "version": version}
        by_delta = spark.read.format("delta").option("versionAsOf", version).load(table).selectExpr(*columns)
        found = rows_read(pipeline, spark, source=source, keep=["id", "place"])
        assert found == Counter(tuple(map(_bits, row)) for row in by_delta.collect())
        assert sum(found.values()) == count


def scan_of(pipeline, spark, **keys) -> str:
    return pipeline(**keys).check(spark).scan


REFUSED = {
    "USER scan: map_in_arrow": {"scan": "map_in_arrow"},
    "SOURCE csv": {"source": {"format": "csv", "schema": "id BIGINT, a FLOAT, b FLOAT, c FLOAT"}},
    "SOURCE option mergeSchema": {"source": {"format": "parquet", "options": {"mergeSchema": "true"}}},
    "PREPARE with": {"prepare": [{"with": {"z": "a + b"}}]},
    'PREPARE source.where: ABS("a") > 1': {"source": {"format": "parquet", "where": "abs(a) > 1"}},
    "PREPARE prepare[0].where: ABS(": {"prepare": [{"where": "abs(a) > 1"}]},
    "PREPARE select of a field of a struct": {"prepare": [{"select": ["id", "a", "b", "c", "s.a"]}]},
    "TYPES money is decimal(9,2)": {"keep": ["id", "money"]},
    "TYPES s.x is a field of a struct": {"keep": ["id", "s.x"]},
    "TYPES old is timestamp": {"keep": ["id", "old"]},
}


@pytest.fixture
def odd_source(tmp_path: Path) -> dict[str, Any]:
    table = kept_table(10)
    table = table.append_column("s", pa.array([{"x": 1.0, "a": 2.0}] * 10))
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    return {"format": "parquet", "location": str(tmp_path / "in")}


@pytest.mark.parametrize("why", REFUSED)
def test_a_rule_that_does_not_hold_is_named_by_check(spark, pipeline, odd_source, why: str) -> None:
    keys = dict(REFUSED[why])
    if keys.get("source", {}).get("format") == "csv":
        (Path(odd_source["location"]) / "a.parquet").unlink()
        (Path(odd_source["location"]) / "a.csv").write_text("1,1.0,2.0,3.0\n")
    if "old" in keys.get("keep", ()):
        table = pa.table({"old": pa.array([dt.datetime(2000, 1, 1)] * 10, pa.timestamp("us", "UTC"))})
        path = Path(odd_source["location"]) / "a.parquet"
        pq.write_table(
            pq.read_table(path).append_column("old", table["old"]), path, use_deprecated_int96_timestamps=True
        )
        why = "PARQUET_LEGACY old is in nanoseconds or INT96"
    source = {**odd_source, **keys.pop("source", {})}
    assert scan_of(pipeline, spark, source=source, **keys).startswith(f"map_in_arrow ({why}")
    if "scan" not in keys:
        with pytest.raises(SparkscoreError, match=r"SPS-SPEC-VALUE.*scan: fused demands") as refused:
            pipeline(source=source, scan="fused", **keys).check(spark)
        assert why in str(refused.value)


def test_check_says_what_it_costs_that_spark_reads_and_the_docs_have_each_remedy(spark, pipeline, odd_source) -> None:
    told = str(pipeline(source=odd_source, scan="map_in_arrow", keep=["id", "text"]).check(spark))
    assert "scan         map_in_arrow (USER scan: map_in_arrow)\n" in told
    assert "some 2,208 ns of CPU a row more than a fused scan; remedy: `scan: auto`" in told  # 4 numbers and a text
    assert "remedy" not in str(pipeline(source=odd_source).check(spark))
    lines = (Path(__file__).parents[2] / "docs" / "running.md").read_text().splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `") and line.split("`")[1] in REMEDIES}
    assert all(rows[reason].endswith(f"| {remedy} |") for reason, remedy in REMEDIES.items())


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (b"org.apache.spark.legacyDateTime", "PARQUET_LEGACY day"),
        (b"org.apache.spark.legacyINT96", "PARQUET_LEGACY day"),
        (b"org.apache.spark.version", "PARQUET_LEGACY day"),
        (b"org.apache.spark.other", ""),
    ],
)
def test_days_of_a_writer_with_the_old_calendar_are_left_to_spark(spark, pipeline, odd_source, key, why) -> None:
    path = Path(odd_source["location"]) / "a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({key: b"2.4.8"}), path)
    chosen = scan_of(pipeline, spark, source=odd_source, keep=["id", "day"])
    assert chosen.startswith(f"map_in_arrow ({why}") if why else chosen == "fused"
    assert scan_of(pipeline, spark, source=odd_source) == "fused"  # which reads no day


class Keys(encryption.KmsClient):
    """A key server in the process; it hides no key."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return b64decode(wrapped_key)


def encrypt(path: Path, column: str, *, plaintext_footer: bool) -> None:
    """Write a file anew with one column encrypted."""
    of = encryption.EncryptionConfiguration("f", column_keys={"k": [column]}, plaintext_footer=plaintext_footer)
    factory = encryption.CryptoFactory(lambda _: Keys())
    table = pq.read_table(path)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), of)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def test_encrypted_columns_are_left_to_spark_and_an_encrypted_footer_is_named(spark, pipeline, odd_source) -> None:
    path = Path(odd_source["location"]) / "a.parquet"
    keys = {"source": odd_source, "on_error": {"max_fraction": 1.0, "min_ok_rows": 0}}
    encrypt(path, "d", plaintext_footer=True)
    summary = pipeline(**keys).run(spark, run_id="r1").summary()
    assert (summary.scan, summary.scan_reason.split()[0], summary.planned_rows) == ("map_in_arrow", "ENCRYPTED", 10)
    with pytest.raises(SparkscoreError, match=r"SPS-DATA-FILE.*ParquetCryptoRuntimeException"):
        pipeline(**keys, inputs={"x": ["a", "b", "d"]}).run(spark, run_id="r2")
    pq.write_table(kept_table(10), path)
    encrypt(path, "d", plaintext_footer=False)
    with pytest.raises(SparkscoreError, match=r"SPS-DATA-FILE.*encrypted footer"):
        pipeline(**keys).check(spark)


def test_a_session_that_reads_otherwise_is_left_to_spark(spark, pipeline, odd_source) -> None:
    for name, value, why in (
        ("spark.sql.caseSensitive", "true", "SESSION spark.sql.caseSensitive"),
        ("spark.sql.parquet.datetimeRebaseModeInRead", "LEGACY", "PARQUET_LEGACY day is read by the session's"),
    ):
        spark.conf.set(name, value)
        try:
            assert why in scan_of(pipeline, spark, source=odd_source, keep=["id", "day"])
        finally:
            spark.conf.unset(name)


def test_a_table_with_deletion_vectors_or_a_name_in_the_catalog_is_left_to_spark(spark, pipeline, tmp_path) -> None:
    table = str(tmp_path / "table")
    write_rows(tmp_path / "in", 40, 1)
    frame = spark.read.parquet(str(tmp_path / "in")).coalesce(1)
    frame.write.format("delta").option("delta.enableDeletionVectors", "true").save(table)
    spark.sql(f"DELETE FROM delta.`{table}` WHERE id = 7")
    source = {"format": "delta", "location": table}
    assert scan_of(pipeline, spark, source=source).startswith("map_in_arrow (DELTA_FEATURE deletionVectors")
    spark.sql("DROP TABLE IF EXISTS named")
    frame.write.format("delta").saveAsTable("named")
    try:
        assert scan_of(pipeline, spark, source={"table": "named"}).startswith("map_in_arrow (CATALOG_POLICY named")
    finally:
        spark.sql("DROP TABLE named")


def test_partition_values_that_folders_do_not_tell_are_left_to_spark(spark, pipeline, tmp_path) -> None:
    write_rows(tmp_path / "in" / "at=2020-01-01 00%3A00%3A00", 40, 1)
    source = {"format": "parquet", "location": str(tmp_path / "in")}
    typed = {**source, "schema": "id BIGINT, a FLOAT, b FLOAT, c FLOAT, at TIMESTAMP"}
    assert scan_of(pipeline, spark, source=typed, keep=["id", "at"]).startswith("map_in_arrow (PARTITION_VALUES at")
    assert scan_of(pipeline, spark, source=source, keep=["id", "at"]) == "fused"  # a text
    for odd in ("at=%C3%BC", "at=2020-1-5"):
        write_rows(tmp_path / odd / odd, 40, 1)
        of = {**source, "location": str(tmp_path / odd)}
        of |= {"schema": "id BIGINT, a FLOAT, b FLOAT, c FLOAT, at DATE"} if odd.endswith("5") else {}
        assert scan_of(pipeline, spark, source=of, keep=["id", "at"]).startswith("map_in_arrow (PARTITION_VALUES of")
    write_deltalake(tmp_path / "table", pa.table({name: [1, 2] for name in ("a", "b", "c", "id")}), partition_by="id")
    source = {"format": "delta", "location": str(tmp_path / "table")}
    why = "map_in_arrow (PARTITION_VALUES partition values: id is of type long"
    assert scan_of(pipeline, spark, source=source).startswith(why)


def test_a_table_with_column_mapping_is_scored_by_way_of_deltas_reader(spark, pipeline, tmp_path) -> None:
    """Without deletion vectors that reader gives no index of a row in its file (Delta 4.4)."""
    table = str(tmp_path / "table")
    rows = spark.range(0, 20, 1, 1).selectExpr("id", *(f"CAST(id AS FLOAT) AS {name}" for name in "abc"))
    rows.write.format("delta").option("delta.columnMapping.mode", "name").save(table)
    source = {"format": "delta", "location": table}
    summary = pipeline(source=source, sink={"format": "delta", "location": str(tmp_path / "out")}).run(spark).summary()
    assert (summary.scan_reason, summary.ok_rows) == ("DELTA_FEATURE columnMapping", 20)


def test_where_it_gains_little_spark_reads_and_fused_may_be_demanded_all_the_same(spark, pipeline, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"a": pa.array([1.0, 2.0], pa.float32())}), tmp_path / "in" / "a.parquet")
    source = {"format": "parquet", "location": str(tmp_path / "in")}
    keys = {"source": source, "keep": [], "keys": [], "inputs": {"x": ["a", "a", "a"]}}
    assert scan_of(pipeline, spark, **keys).startswith("map_in_arrow (GAIN 0.9")
    assert scan_of(pipeline, spark, scan="fused", **keys) == "fused"
