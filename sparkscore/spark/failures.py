"""Spark's failures, mapped once to sparkscore's: the text is all that Spark passes on, so the text is what is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sparkscore.errors import SparkscoreError, error, from_text
from sparkscore.runtime.redaction import redacted

__all__ = ["from_spark", "mapped", "shown_cause"]

_FILE = re.compile(r"(?:file|path|location)[: ]+['\"`(]?((?:[a-z0-9]+:)?/[^\s'\"`,;)]+)", re.IGNORECASE)
_CONDITION = re.compile(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]")

# What a SQL expression of the allow-list can raise on a row: Spark's conditions, with or without their subconditions,
# and the Java exceptions that Spark passes on as they are.
_NAMES = """
ARITHMETIC_OVERFLOW BINARY_ARITHMETIC_OVERFLOW CANNOT_DECODE_URL CANNOT_PARSE_DECIMAL CANNOT_PARSE_INTERVAL
CANNOT_PARSE_TIME CANNOT_PARSE_TIMESTAMP CAST_INVALID_INPUT CAST_OVERFLOW COLLECTION_SIZE_LIMIT_EXCEEDED
CONVERSION_INVALID_INPUT DATETIME_FIELD_OUT_OF_BOUNDS DATETIME_OVERFLOW DECIMAL_PRECISION_EXCEEDS_MAX_PRECISION
DIVIDE_BY_ZERO ELEMENT_AT_BY_INDEX_ZERO ILLEGAL_DAY_OF_WEEK
INCONSISTENT_BEHAVIOR_CROSS_VERSION.DATETIME_PATTERN_RECOGNITION
INCONSISTENT_BEHAVIOR_CROSS_VERSION.DATETIME_WEEK_BASED_PATTERN
INCONSISTENT_BEHAVIOR_CROSS_VERSION.PARSE_DATETIME_BY_NEW_PARSER
INTERVAL_ARITHMETIC_OVERFLOW INTERVAL_DIVIDED_BY_ZERO INVALID_ARRAY_INDEX INVALID_ARRAY_INDEX_IN_ELEMENT_AT
INVALID_DATETIME_PATTERN INVALID_FORMAT INVALID_FRACTION_OF_SECOND INVALID_INDEX_OF_ZERO INVALID_INTERVAL_FORMAT
INVALID_INTERVAL_WITH_MICROSECONDS_ADDITION INVALID_PARAMETER_VALUE INVALID_REGEXP_REPLACE INVALID_TIMEZONE
INVALID_URL INVALID_UTF8_STRING MALFORMED_CHARACTER_CODING NUMERIC_OUT_OF_SUPPORTED_RANGE NUMERIC_VALUE_OUT_OF_RANGE
REMAINDER_BY_ZERO

ArithmeticException DateTimeException IllegalArgumentException PatternSyntaxException
"""
_RAISED = frozenset(_NAMES.split())
# The name of a condition or of such an exception right behind what was thrown: a row's value that holds one stands
# further behind. Of an illegal argument only that of `format_number` counts, a pattern.
_THROWN = re.compile(
    r"(?:Exception|Error): \[([A-Z][A-Z0-9_.-]+)\]|"
    r"\b(ArithmeticException|DateTimeException|PatternSyntaxException|"
    r'IllegalArgumentException(?=: [^"\n]*pattern ")): (?!\[)'
)
_WRAPPERS = ("TASK_WRITE_FAILED",)

# First match wins: roots stand before the symptoms that wrap them.
_RULES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"MALFORMED_CSV|CSV header does not conform|FAILED_TO_PARSE_CSV|Number of column in CSV header",
        "SPS-DATA-COLUMN",
        "each CSV header to name the schema's columns in order",
        "Mend source.schema, or the file.",
    ),
    (
        r"FAILED_READ_FILE\.FILE_NOT_EXIST|FileNotFoundException|DELTA_FILE_NOT_FOUND",
        "SPS-DATA-GONE",
        "every planned file to be there",
        "Restore the file, or plan a new run over what is there; compare the table's retention with the run's length.",
    ),
    (
        r"FAILED_READ_FILE\.PARQUET_COLUMN_DATA_TYPE_MISMATCH|CANNOT_MERGE_SCHEMAS",
        "SPS-DATA-COLUMN",
        "each file to have the planned column types",
        "Rewrite the file with the schema of the others, or leave it out.",
    ),
    (
        r"FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|is not a Parquet file|could not verify page integrity|"
        r"Expected magic number|ChecksumException",
        "SPS-DATA-FILE",
        "every input file to be whole",
        "Restore the file from its writer; nothing of its unit was committed.",
    ),
    (
        r"COLUMN_ALREADY_EXISTS",
        "SPS-SPEC-COLUMN",
        "columns of different names; Spark compares them without case",
        "Rename one of them at the source: in the view or the query, or in the files.",
    ),
    (
        r"TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|CATALOG_NOT_FOUND",
        "SPS-ENV-SOURCE",
        "the table in this session's catalog",
        "Check source.table: catalog, schema and name, and whether the session has that catalog.",
    ),
    (
        r"AVRO_INCOMPATIBLE_READ_TYPE|IncompatibleSchemaException",
        "SPS-DATA-COLUMN",
        "each file to have the planned column types",
        "Rewrite the file with the schema of the others, or leave it out.",
    ),
    (
        r"PATH_NOT_FOUND|DELTA_MISSING_DELTA_TABLE|DELTA_TABLE_NOT_FOUND|PATH_DOES_NOT_EXIST|UNABLE_TO_INFER_SCHEMA",
        "SPS-ENV-SOURCE",
        "data at the location",
        "Check it, and the variables in it; a folder without readable files has no schema to infer.",
    ),
    (
        r"DELTA_VERSION_NOT_FOUND|DELTA_NO_COMMITS_FOUND|DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND|DELTA_STATE_RECOVER",
        "SPS-ENV-SOURCE",
        "the asked version of the Delta table",
        "Give source.version one that DESCRIBE HISTORY lists; older ones were cleaned up.",
    ),
    (
        r"UnknownStoreException|NoSuchBucket",
        "SPS-ENV-ACCESS",
        "a bucket that is there",
        "Make the bucket, or correct the name and AWS_ENDPOINT_URL.",
    ),
    (
        r"AccessControlException|AccessDenied|Permission denied",
        "SPS-ENV-ACCESS",
        "permission to read and write there",
        "Give this user the permission, or other credentials.",
    ),
    (
        r"Failed to find (?:the )?data source|DATA_SOURCE_NOT_FOUND|DELTA_CONFIGURE_SPARK_SESSION|"
        r"ClassNotFoundException|No FileSystem for scheme",
        "SPS-ENV-PACKAGE",
        "the format's and the store's jars in this Spark session",
        "Start the session with the jars: see `sparkscore jars`, for S3 `--s3`; Delta also needs two settings.",
    ),
    (
        r"Python in worker has different version\W+[\w.]+\W+than that in driver\W+[\w.]+|PYTHON_VERSION_MISMATCH",
        "SPS-ENV-PACKAGE",
        "the workers' Python to have the driver's minor version",
        "Set PYSPARK_PYTHON, on the driver, to a Python of that version on every node, or send one with --archives.",
    ),
    (
        r"ModuleNotFoundError: No module named '[\w.]+'|PACKAGE_NOT_INSTALLED",
        "SPS-ENV-PACKAGE",
        "each worker's Python to have sparkscore and what it imports: numpy, pyarrow, onnxruntime",
        "Install sparkscore[cpu] on every node, or send sparkscore with --py-files and the packages with --archives; "
        "set PYSPARK_PYTHON to the Python that has them.",
    ),
    (
        r"Cannot run program \"[^\"]*python[^\"]*\"|Error from python worker:\s+[^\n]{1,200}",
        "SPS-ENV-PACKAGE",
        "the Python of PYSPARK_PYTHON to start on every node",
        "Set PYSPARK_PYTHON, on the driver, to a path that the nodes have; by default it is the driver's own.",
    ),
    (
        r"ConcurrentTransaction",
        "SPS-FENCED",
        "to be the only writer of this run",
        "Let the other driver go on; this one stops.",
    ),
    (
        r"DELTA_CONCURRENT|ConcurrentAppend|ConcurrentWrite|ConcurrentDelete|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED|"
        r"DELTA_SCHEMA_CHANGE_SINCE_ANALYSIS",
        "SPS-CLUSTER-CONFLICT",
        "the commit to go through",
        "Start the same run id again: it resumes.",
    ),
    (
        r"DELTA_METADATA_MISMATCH|DELTA_FAILED_TO_MERGE_FIELDS|DELTA_VIOLATE_CONSTRAINT|DELTA_NOT_NULL_CONSTRAINT|"
        r"DELTA_CANNOT_MODIFY_APPEND_ONLY|DELTA_REPLACE_WHERE_MISMATCH|DELTA_INVALID_CHARACTERS|"
        r"DELTA_EXCEED_CHAR_VARCHAR_LIMIT|EXCEED_LIMIT_LENGTH|INVALID_COLUMN_NAME_AS_PATH",
        "SPS-SPEC-SINK",
        "a sink that takes these rows",
        "Choose another sink.location, or mend the table.",
    ),
    (
        r"Python worker exited unexpectedly|ExecutorLostFailure|Executor heartbeat timed out",
        "SPS-CLUSTER-WORKER",
        "the workers to live",
        "Start the same run id again: it resumes. If it dies at the same unit, a row or the memory limit kills it.",
    ),
    (
        r"No space left on device|SlowDown|reduce your request rate|Connection reset|SocketTimeout|DiskErrorException|"
        r"SafeModeException|StandbyException|ConnectException|UnknownHostException|NoRouteToHostException",
        "SPS-CLUSTER-STORAGE",
        "storage that answers",
        "Start the same run id again: it resumes.",
    ),
)


def from_spark(cause: BaseException, expressions: Mapping[str, str] | None = None, **context: Any) -> SparkscoreError:
    """Give the sparkscore error that a Spark failure stands for.

    An expression that raised on a row is known by the condition that was thrown; of Spark's text, which quotes the
    row's value, nothing else is told. A sparkscore error raised in a worker is found in the text and given back as it
    was. Everything else is matched by its condition or exception name; what nothing matches is `SPS-FAILED`, never a
    guess.

    Parameters
    ----------
    cause : BaseException
        What Spark raised.
    expressions : mapping of str to str, optional
        The pipeline's SQL expressions by their place in the file, to name the one that raised.
    """
    if isinstance(cause, SparkscoreError):
        return cause
    text = str(cause)
    raised = _raised(f"{type(cause).__name__}: {text}")
    if raised is not None:
        return error(
            "SPS-PREPARE",
            f"Expected each SQL expression to give a value for each row. Got {raised}.",
            "Use the expression's try_ form (try_cast, try_divide, try_element_at), which gives null, or guard it by "
            "CASE WHEN.",
            **context,
            expression=_named_expression(text, expressions or {}),
        )
    ours = from_text(text)
    if ours is not None:
        ours.context.update({k: v for k, v in context.items() if k not in ours.context})
        return ours
    for pattern, code, expected, fix in _RULES:
        match = re.search(pattern, text)
        if match:
            got = _got(text)
            told = " ".join(match.group().split())
            named = got if told in got else f"{got.rstrip(':')}; {told}"
            return error(code, f"Expected {expected}. Got {named}.", fix, **_with_file(text, context))
    return error(
        "SPS-FAILED",
        f"Expected the job to end well. Got {type(cause).__name__}: {_got(text)}.",
        "Read the cause below; start the same run id again when it is mended.",
        **context,
    )


@contextmanager
def mapped(spark: Any, expressions: Mapping[str, str] | None = None, **context: Any) -> Iterator[None]:
    """Map what Spark raises inside the block. `spark` is the session, named so that only Spark work stands inside."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    del spark
    try:
        yield
    except (PySparkException, Py4JError) as cause:
        raise from_spark(cause, expressions, **context) from shown_cause(cause)


class SparkTextError(RuntimeError):
    """What Spark said, without secrets: it stands for Spark's own exception where that one's text has some."""


def shown_cause(cause: BaseException) -> BaseException | None:
    """Give what may stand as the cause of our error in a traceback, which notebooks and schedulers keep.

    That is Spark's exception itself, unless its text quotes a row's value (None) or holds a secret (its text without).
    """
    text = str(cause)
    if isinstance(cause, SparkscoreError):
        return cause
    if _raised(f"{type(cause).__name__}: {text}") is not None:
        return None
    clean = redacted(text)
    return cause if clean == text else SparkTextError(f"{type(cause).__name__}: {clean}")


def _raised(text: str) -> str | None:
    """Name what an expression raised; None where another failure was thrown first, or none is known."""
    thrown = (condition or java for condition, java in _THROWN.findall(text))
    name = next((name for name in thrown if name not in _WRAPPERS), "")
    return name if name in _RAISED or name.split(".", 1)[0] in _RAISED else None


def _got(text: str) -> str:
    """The condition's line and the root cause's; never more: Spark's texts hold plans and rows further down."""
    condition = _CONDITION.search(text)
    lines = [line.strip() for line in (text[condition.start() :] if condition else text).splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    told = [*lines[:1], *causes[-1:]]
    # Delta quotes the value that is too long for a column: a row's, which no message of ours may hold.
    told = [re.sub(r'(Value )".*" exceeds', r'\1"…" exceeds', line) for line in dict.fromkeys(told)]
    return redacted("; ".join(line[:300].rstrip(". ") for line in told))


def _named_expression(text: str, expressions: Mapping[str, str]) -> str | None:
    """Spark prints the fragment of SQL that raised; it names the step when it stands in one of the pipeline's."""
    fragment = re.search(r"== SQL.*?==\s*\n(.*?)\n", text)
    wanted = _squeezed(fragment.group(1)) if fragment else ""
    for place, expression in expressions.items():
        if wanted and (_squeezed(expression) in wanted or wanted in _squeezed(expression)):
            return f"{place}: {expression}"
    return "; ".join(f"{p}: {e}" for p, e in expressions.items()) or None


def _squeezed(sql: str) -> str:
    return re.sub(r"[\s`]+", "", sql).lower()


def _with_file(text: str, context: dict[str, Any]) -> dict[str, Any]:
    match = _FILE.search(text)
    return {"file": redacted(match.group(1).rstrip(".")), **context} if match and "file" not in context else context
