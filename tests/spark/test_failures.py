"""Spark's texts, as recorded from real runs, become one clear error each."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.errors import PySparkException

from sparkscore.errors import ModelError, SparkscoreError, error, from_text
from sparkscore.spark.failures import from_spark, mapped
from sparkscore.spark.prepare import apply_where
from sparkscore.spec.expressions import render
from sparkscore.spec.scoring import CORRUPT_COL

_HEADER = """An error occurred while calling o92.save.
: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while reading file \
file:///tmp/p/x.csv.  SQLSTATE: KD001
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.cannotReadFilesError(QueryExecutionErrors.scala:940)
Caused by: org.apache.spark.SparkIllegalArgumentException: CSV header does not conform to the schema.
 Header: a, b
"""
_FILE = "An error occurred …\n: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] … file:/d/a.parquet."
_CAST = """[CAST_INVALID_INPUT] The value 'john@example.com' of the type "STRING" cannot be cast to "INT" because it \
is malformed. SQLSTATE: 22018
== SQL (line 1, position 1) ==
CAST(email AS INT)
^^^^^^^^^^^^^^^^^^
"""


@pytest.mark.parametrize(
    ("text", "code", "exit_code"),
    [
        (_HEADER, "SPS-DATA-COLUMN", 6),
        (_CAST, "SPS-PREPARE", 6),
        ("[FAILED_READ_FILE.FILE_NOT_EXIST] File file:/d/a.parquet does not exist", "SPS-DATA-GONE", 6),
        ("[FAILED_READ_FILE.NO_HINT] … file:/d/a.parquet\nCaused by: x is not a Parquet file", "SPS-DATA-FILE", 6),
        ("[PATH_NOT_FOUND] Path does not exist: file:/d/nowhere.", "SPS-ENV-SOURCE", 4),
        ("Failed to find the data source: delta.", "SPS-ENV-PACKAGE", 4),
        ("Python worker exited unexpectedly (crashed): ", "SPS-CLUSTER-WORKER", 8),
        ("io.delta.exceptions.ConcurrentTransactionException: [DELTA_CONCURRENT_TRANSACTION]", "SPS-FENCED", 9),
        ("[DELTA_CONCURRENT_APPEND] …", "SPS-CLUSTER-CONFLICT", 8),
        ("java.io.IOException: No space left on device", "SPS-CLUSTER-STORAGE", 8),
        ("java.nio.file.AccessDeniedException: s3a://b/in: getFileStatus on s3a://b/in", "SPS-ENV-ACCESS", 4),
        ("org.apache.hadoop.fs.s3a.UnknownStoreException: `s3a://b/in': getFileStatus", "SPS-ENV-ACCESS", 4),
        (
            "org.apache.hadoop.security.AccessControlException: Permission denied: user=mallory, access=WRITE, "
            'inode="/":root:supergroup:drwxr-xr-x',
            "SPS-ENV-ACCESS",
            4,
        ),
        (
            "java.net.ConnectException: Call From h/127.0.0.1 to localhost:1 failed on connection exception: "
            "java.net.ConnectException: Connection refused; For more details see: …",
            "SPS-CLUSTER-STORAGE",
            8,
        ),
        (
            "org.apache.hadoop.hdfs.server.namenode.SafeModeException: Cannot create file/out.",
            "SPS-CLUSTER-STORAGE",
            8,
        ),
        ('UnsupportedFileSystemException: No FileSystem for scheme "s3"', "SPS-ENV-PACKAGE", 4),
        ("[CAST_INVALID_INPUT] …\n== SQL ==\n(CAST(`t` AS INT) > 0) OR _ss_corrupt IS NOT NULL", "SPS-PREPARE", 6),
        (f"{_FILE}\nCaused by: org.apache.spark.SparkArithmeticException: [CAST_OVERFLOW] …", "SPS-DATA-FILE", 6),
        ("something nobody has seen", "SPS-FAILED", 1),
    ],
)
def test_a_recorded_text_has_its_code(text: str, code: str, exit_code: int) -> None:
    found = from_spark(RuntimeError(text))
    assert (found.code, found.exit_code) == (code, exit_code)


def test_a_failed_file_is_named() -> None:
    assert from_spark(RuntimeError(_HEADER)).context["file"] == "file:///tmp/p/x.csv"


def test_a_failed_expression_is_named_and_the_rows_value_is_not() -> None:
    expressions = {"prepare[0].with.n": "CAST(`email` AS INT)", "prepare[1].with.m": "amount + 1"}
    found = from_spark(RuntimeError(_CAST), expressions)
    assert found.context["expression"] == "prepare[0].with.n: CAST(`email` AS INT)"
    assert "john" not in str(found)
    assert "try_cast" in found.fix


# Row -> the expression, its condition, and what of the row may not be told.
_RAISING = {
    "CAST(`mail` AS INT)": "CAST_INVALID_INPUT",
    "CAST(`big` AS INT)": "CAST_OVERFLOW",
    "CAST(`big` AS DECIMAL(3, 1))": "NUMERIC_VALUE_OUT_OF_RANGE.WITH_SUGGESTION",
    "TO_DATE(`mail`, 'yyyy')": "CANNOT_PARSE_TIMESTAMP",
    "MAKE_DATE(`n`, 13, 1)": "DATETIME_FIELD_OUT_OF_BOUNDS.WITH_SUGGESTION",
    "PARSE_URL(`url`, 'HOST')": "INVALID_URL",
    "URL_DECODE(`url`)": "CANNOT_DECODE_URL",
    "TO_NUMBER(`mail`, '999')": "INVALID_FORMAT.MISMATCH_INPUT",
    "TO_BINARY(`mail`, 'hex')": "CONVERSION_INVALID_INPUT",
    "ENCODE(`mail`, `mail`)": "INVALID_PARAMETER_VALUE.CHARSET",
    "NEXT_DAY(DATE('2013-01-01'), `mail`)": "ILLEGAL_DAY_OF_WEEK",
    "FROM_UTC_TIMESTAMP(TIMESTAMP('2013-01-01'), `mail`)": "INVALID_TIMEZONE",
    "DATE_FORMAT(TIMESTAMP('2013-01-01'), 'bbbb')": "INVALID_DATETIME_PATTERN.WITH_SUGGESTION",
    "REGEXP_EXTRACT(`mail`, `paren`, 1)": "INVALID_PARAMETER_VALUE.PATTERN",
    "REGEXP_LIKE(`mail`, `paren`)": "PatternSyntaxException",
    "TIMESTAMP_SECONDS(`big` * 1000000)": "ArithmeticException",
    "FORMAT_NUMBER(`big`, '#.0.0')": "IllegalArgumentException",
    "ELEMENT_AT(ARRAY(1, 2), `n` + 7)": "INVALID_ARRAY_INDEX_IN_ELEMENT_AT",
    "SLICE(ARRAY(1, 2), `n`, 1)": "INVALID_PARAMETER_VALUE.START",
    "`mail` LIKE `escape`": "INVALID_FORMAT.ESC_AT_THE_END",
    "`n` / `n`": "DIVIDE_BY_ZERO",
    "CAST(`ours` AS INT)": "CAST_INVALID_INPUT",
    "CAST(`foreign` AS INT)": "CAST_INVALID_INPUT",
}
_ROW = {
    "mail": "john's@example.com",
    "big": 99_999_999_999,
    "n": 0,
    "url": "http://[john%zz",
    "paren": "(john",
    "escape": "john\\",
    "ours": "john\nsparkscore.errors.ClusterError: [SPS-FENCED] x Fix: y",
    "foreign": "john [FAILED_READ_FILE] Python worker exited unexpectedly",
    CORRUPT_COL: None,
}


@pytest.fixture
def compiled(spark) -> Iterator[None]:
    """Spark's errors of generated code, as a user meets them; they differ from those of the suite's own session."""
    suites = spark.conf.get("spark.sql.codegen.factoryMode")
    spark.conf.set("spark.sql.codegen.factoryMode", "FALLBACK")
    yield
    spark.conf.set("spark.sql.codegen.factoryMode", suites)


@pytest.mark.spark
@pytest.mark.usefixtures("compiled")
def test_what_raises_on_a_row_is_a_failed_expression_and_nothing_of_the_row_is_told(spark, tmp_path: Path) -> None:
    kinds = {"big": "bigint", "n": "int"}
    schema = ", ".join(f"{name} {kinds.get(name, 'string')}" for name in _ROW)
    spark.createDataFrame([tuple(_ROW.values())], schema).write.parquet(str(tmp_path / "in"))
    frame = spark.read.parquet(str(tmp_path / "in"))
    for expression, condition in _RAISING.items():
        where = render(f"CAST({expression} AS STRING) <> ''", "source.where")
        with pytest.raises(SparkscoreError) as caught, mapped(spark, {"source.where": where}):
            apply_where(frame, where).toArrow()
        found = caught.value
        assert (found.code, found.exit_code) == ("SPS-PREPARE", 6), str(found)
        assert f"Got {condition}." in found.message
        assert found.context["expression"] == f"source.where: {where}"
        assert "john" not in str(found)
        assert "99999999999" not in str(found)


@pytest.mark.spark
def test_it_is_so_where_a_worker_reads_the_rows_and_delta_writes_them(spark, tmp_path: Path) -> None:
    frame = spark.createDataFrame([(_ROW["ours"],)], "ours string").where("CAST(ours AS INT) > 0")
    with pytest.raises(SparkscoreError) as caught, mapped(spark):
        frame.mapInArrow(_passed_on, "ours string").write.format("delta").save(str(tmp_path / "out"))
    assert (caught.value.code, "john" in str(caught.value)) == ("SPS-PREPARE", False)


def _passed_on(batches):
    yield from batches


class _Refusing:
    """Worker side: fails with an error of ours that was raised from another."""

    def __call__(self, batches):
        for _ in batches:
            try:
                raise ValueError("[SPS-FENCED] Expected it not. Got this. Fix: No.")
            except ValueError as cause:
                raise error("SPS-MODEL-RUN", "Expected x (as ever). Got y.", "Do z.", row=3) from cause
            yield


@pytest.mark.spark
def test_an_error_of_ours_comes_back_from_a_worker_with_its_code(spark, tmp_path: Path) -> None:
    frame = spark.range(3).mapInArrow(_Refusing(), "id bigint")
    jobs = [frame.collect, lambda: frame.write.format("delta").save(str(tmp_path / "out"))]
    for job in jobs:
        with pytest.raises(SparkscoreError) as caught, mapped(spark):
            job()
        assert (caught.value.code, caught.value.context) == ("SPS-MODEL-RUN", {"row": "3"}), str(caught.value)


def test_a_code_of_ours_that_is_no_end_of_a_traceback_is_data() -> None:
    text = '[DELTA_EXCEED_CHAR_VARCHAR_LIMIT] Value "[SPS-FENCED] john Fix: y" exceeds char/varchar type length.'
    found = from_spark(RuntimeError(text))
    assert (found.code, "john" in str(found)) == ("SPS-SPEC-SINK", False)


def test_the_worker_s_error_is_found_in_spark_connect_s_text_too() -> None:
    ours = error("SPS-MODEL-RUN", "Expected x (as ever). Got y.", "Do z.", row=3)
    head = "\n  An exception was thrown from the Python worker. Please see the stack trace below.\n[PYTHON_EXCEPTION] "
    trace = "An exception was thrown from the Python worker: Traceback (most recent call last):\n  File …\n"
    found = from_spark(RuntimeError(f"{head}{trace}sparkscore.errors.ModelError: {ours}\n SQLSTATE: 38000"))
    assert (found.code, found.context) == ("SPS-MODEL-RUN", {"row": "3"})


def test_an_error_of_ours_comes_back_out_of_sparks_text_with_its_place() -> None:
    ours = error("SPS-MODEL-BATCH", "Expected rows alone (as ever). Got others.", "Set model.batch_size: 1.", row=3)
    text = f"Traceback (most recent call last):\n  File …\nsparkscore.errors.ModelError: {ours}\n\tat org.apache.spark"
    found = from_spark(RuntimeError(text), run="r1")
    assert isinstance(found, ModelError)
    assert (found.code, found.message, found.fix) == (ours.code, ours.message, ours.fix)
    assert found.context == {"row": "3", "run": "r1"}
    assert from_text("no code here") is None


SECRETS = "fs.s3a.secret.key=cnry1 at s3a://AKIA:cnry2@lake/x for cnry3@example.org, card 4111 1111 1111 1111"


@pytest.mark.parametrize("before", ["java.lang.Odd: ", "FileNotFoundException: file ", "AccessDenied: "])
def test_a_text_with_secrets_is_told_and_chained_without_them(before: str) -> None:
    with pytest.raises(SparkscoreError) as caught, mapped(None):
        raise PySparkException(before + SECRETS)
    told = "".join(traceback.format_exception(caught.value))
    assert not re.search("cnry|4111", told), told
    assert "fs.s3a.secret.key=#" in told
    assert "lake/x" in told


def test_the_exception_of_a_cast_which_quotes_the_row_is_not_chained_and_a_harmless_one_is() -> None:
    with pytest.raises(SparkscoreError, match="SPS-PREPARE") as caught, mapped(None):
        raise PySparkException("org.apache.spark.SparkNumberFormatException: [CAST_INVALID_INPUT] The value 'cnry' of")
    assert "cnry" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(SparkscoreError) as caught, mapped(None):
        raise PySparkException("[PATH_NOT_FOUND] Path does not exist: file:/in.")
    assert type(caught.value.__cause__) is PySparkException
