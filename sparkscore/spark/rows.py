"""Rows that only Spark can give (a database, a view, a format of its own): opened as a frame, and copied once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.spark.failures import from_spark
from sparkscore.spark.schemas import arrow_schema
from sparkscore.spec.fields import near
from sparkscore.spec.source import FILE_FORMATS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = ["Rows", "assert_types", "copy_rows", "rounded_columns", "secrets_of"]

# A unit is whole files, so the rows of a file are the least that a resume repeats; about a second of scoring.
_ROWS_PER_FILE = 100_000
_DEFAULTS = {
    # Without it PostgreSQL's driver holds all rows of a partition in memory, and Oracle's asks for ten at a time.
    "jdbc": {"fetchsize": "10000"},
    # Its default gives a malformed record as a row of nulls, without a word.
    "xml": {"mode": "FAILFAST"},
}
_JARS = "SPARKSCORE_JARS for a session of sparkscore's own, --jars of spark-submit, spark.jars of yours"
# First match wins. The first three are about a connection, and see what the driver said of it.
_RULES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"FAILED_JDBC.*(?i:refused|timed? ?out|attempt failed|UnknownHost|not known|link failure|unreachable)",
        "SPS-CLUSTER-STORAGE",
        "a database that answers",
        "Check host and port of options.url, and whether the database is up.",
    ),
    (
        r"FAILED_JDBC.*(?i:does not exist|unknown database|cannot open database)",
        "SPS-ENV-SOURCE",
        "the database that options.url names",
        "Correct options.url.",
    ),
    (
        r"FAILED_JDBC",
        "SPS-ENV-ACCESS",
        "a database that takes the connection",
        "Check user and password, by options.user and source.credentials, and options.url.",
    ),
    (
        r"No suitable driver|ClassNotFoundException: \S*(?i:driver|jdbc)",
        "SPS-ENV-PACKAGE",
        "the database's JDBC driver in this Spark session, by the class that options.driver names",
        f"Give its jar: {_JARS}.",
    ),
    (
        r"JDBC_EXTERNAL_ENGINE_SYNTAX_ERROR|(?:relation|table|view) \S+ (?:does not|doesn't) exist|ORA-00942|"
        r"Invalid object name|TABLE_OR_VIEW_NOT_FOUND",
        "SPS-ENV-SOURCE",
        "a table or query that the source knows",
        "Correct options.dbtable or options.query, or source.table.",
    ),
)
_UNSURE_DIGITS = 38  # of a decimal: Spark's most, and what it takes for a column that has more or does not say


@dataclass(frozen=True)
class Rows:
    """A source that Spark alone can read, and why.

    `credentials` are names of options -> references to secrets. What they refer to is read when the source is opened,
    given to Spark's reader, and kept nowhere.
    """

    reason: str
    format: str = ""
    table: str = ""
    locations: tuple[str, ...] = ()
    ddl: str = ""
    options: tuple[tuple[str, str], ...] = ()
    credentials: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Name the source for a person."""
        options = {name.lower(): value for name, value in self.options}
        what = self.locations or [options[name] for name in ("dbtable", "query", "table") if name in options]
        return f"table {self.table}" if self.table else " ".join([self.format, *what])

    def to_json(self) -> dict[str, Any]:
        """Give the source's identity as a plan keeps it: everything but what concerns secrets."""
        facts: dict[str, Any] = {
            "format": self.format,
            "table": self.table,
            "locations": list(self.locations),
            "schema": self.ddl,
        }
        facts |= {"options": dict(self.options), "reason": self.reason, "name": self.name}
        return {k: v for k, v in facts.items() if v}

    def frame(self, spark: SparkSession) -> DataFrame:
        """Open the source; reads its schema and no rows.

        Raises
        ------
        SpecError, ClusterError
            What the source or Spark refuses, without the text of any secret.
        """
        with self.mapped(opening=True):
            if self.table:
                return spark.read.table(self.table)
            given = {name.lower() for name, _ in (*self.options, *self.credentials)}
            defaults = {k: v for k, v in _DEFAULTS.get(self.format.lower(), {}).items() if k not in given}
            reader = spark.read.format(self.format).options(
                **defaults, **dict(self.options), **secrets_of(dict(self.credentials), "source.credentials")
            )
            if self.ddl:
                reader = reader.schema(self.ddl)
            return reader.load(list(self.locations)) if len(self.locations) > 1 else reader.load(*self.locations)

    @contextmanager
    def mapped(self, expressions: Mapping[str, str] | None = None, *, opening: bool = False) -> Iterator[None]:
        """Map what Spark raises inside the block, and keep the source's secrets and its rows' values out of it."""
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            yield
        except (PySparkException, Py4JError) as cause:
            failure = self._failure(cause, expressions or {}, opening)
            secrets = [secret for secret in self._values() if secret in f"{failure}{cause}"]
            for secret in secrets:
                failure.message = failure.message.replace(secret, "***")
            raise failure from (None if secrets else cause)

    def _failure(self, cause: BaseException, expressions: Mapping[str, str], opening: bool) -> SparkscoreError:
        text = str(cause)
        # What a driver says of a connection is the cause of Spark's error, and no part of its text.
        said = f"{text.splitlines()[0] if text else ''}; {_cause_of(cause)}" if "FAILED_JDBC" in text else ""
        failure = from_spark(cause, expressions, source=self.name)
        # Before a row is read, Spark's own words hold none of its values.
        got = said or (failure.message.partition(" Got ")[2] if opening else _without_values(text))
        got = got[:400].rstrip(". ")
        for pattern, code, expected, fix in _RULES:
            if re.search(pattern, said or text):
                return error(code, f"Expected {expected}. Got {got}.", fix, source=self.name)
        if re.search(r"DATA_SOURCE_NOT_FOUND|Failed to find data source", text):
            return self._unknown_format()
        if failure.code != "SPS-FAILED" and (failure.code != "SPS-PREPARE" or expressions):
            return failure
        if opening:
            fix = "Check the format's options; see its own documentation."
            return error("SPS-ENV-SOURCE", f"Expected a source that Spark can open. Got {got}.", fix, source=self.name)
        return error(
            "SPS-DATA-SOURCE",
            f"Expected each row of the source to be readable. Got {got}.",
            "Cast the column or leave the row out: in options.query of a database, in a view, or at the source.",
            source=self.name,
        )

    def _unknown_format(self) -> SparkscoreError:
        meant = near(self.format, (*FILE_FORMATS, "jdbc"))
        return error(
            "SPS-SPEC-VALUE" if meant else "SPS-ENV-PACKAGE",
            f"Expected a format that this Spark session finds. Got {self.format!r}, which it does not.",
            f"{meant}A format that Spark does not bring comes with a jar: {_JARS}.",
            at="source.format",
        )

    def _values(self) -> list[str]:
        return [v for _, reference in self.credentials if (v := os.environ.get(reference.removeprefix("env:")))]


def secrets_of(references: Mapping[str, str], key: str) -> dict[str, str]:
    """Read what references to secrets refer to; `key` says where they stand in the pipeline file.

    Raises
    ------
    ClusterError
        `SPS-ENV-ACCESS` for a variable that is not set.
    """
    found = {}
    for name, reference in references.items():
        variable = reference.removeprefix("env:")
        value = os.environ.get(variable)
        if not value:
            raise error(
                "SPS-ENV-ACCESS",
                f"Expected the environment variable {variable}, to which {key}.{name} refers. Got none.",
                "Set it for the driver's process.",
            )
        found[name] = value
    return found


def _cause_of(cause: BaseException) -> str:
    lines = str(getattr(cause, "_cause", None) or "").strip().splitlines()
    return lines[0] if lines else "its driver's words are in Spark's log"


def _without_values(text: str) -> str:
    """Tell what was thrown last, by its class and its first words: further on, a driver quotes the value."""
    found = re.findall(r"(\w+(?:Exception|Error)): (\[[A-Z_.0-9]+\]|[^\n\[:'\"]*)", text)
    return ": ".join(found[-1]).strip(": ") if found else "an error without a name"


def assert_types(schema: StructType, name: str) -> None:
    """Refuse columns of types that reach no worker.

    Raises
    ------
    SpecError
        `SPS-SPEC-TYPE`, naming the first of them.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql.types import StructType

    for field in schema.fields:
        try:
            arrow_schema(StructType([field]))
        except PySparkException as cause:
            raise error(
                "SPS-SPEC-TYPE",
                f"Expected columns that can be copied from {name}. Got {field.name} of type "
                f"{field.dataType.simpleString()}, which has no form in Parquet and Arrow.",
                "Convert it or leave it out, in the view or in options.query.",
                at="source",
            ) from cause


def rounded_columns(schema: StructType) -> list[str]:
    """Name a database's decimals of which Spark may drop digits: it has 38, and guesses where none are declared."""
    from pyspark.sql.types import DecimalType

    kinds = [(f.name, f.dataType) for f in schema.fields]
    return [
        f"{name} ({k.simpleString()})"
        for name, k in kinds
        if isinstance(k, DecimalType) and k.precision >= _UNSURE_DIGITS
    ]


def copy_rows(frame: DataFrame, folder: str) -> None:
    """Write a frame as Parquet into a folder that nobody else has."""
    frame.write.mode("error").option("maxRecordsPerFile", _ROWS_PER_FILE).parquet(folder)
