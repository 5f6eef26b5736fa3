"""Spark's texts, as recorded from real runs, become one clear error each."""

from __future__ import annotations

import pytest

from sparkscore.errors import ModelError, error, from_text
from sparkscore.spark.failures import from_spark

_HEADER = """An error occurred while calling o92.save.
: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while reading file \
file:///tmp/p/x.csv.  SQLSTATE: KD001
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.cannotReadFilesError(QueryExecutionErrors.scala:940)
Caused by: org.apache.spark.SparkIllegalArgumentException: CSV header does not conform to the schema.
 Header: a, b
"""
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


def test_an_error_of_ours_comes_back_out_of_sparks_text_with_its_place() -> None:
    ours = error("SPS-MODEL-BATCH", "Expected rows alone (as ever). Got others.", "Set model.batch_size: 1.", row=3)
    text = f"Traceback (most recent call last):\n  File …\nsparkscore.errors.ModelError: {ours}\n\tat org.apache.spark"
    found = from_spark(RuntimeError(text), run="r1")
    assert isinstance(found, ModelError)
    assert (found.code, found.message, found.fix) == (ours.code, ours.message, ours.fix)
    assert found.context == {"row": "3", "run": "r1"}
    assert from_text("no code here") is None
