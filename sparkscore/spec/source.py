"""Where the rows come from, and the SQL steps between the source and the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sparkscore.spec.fields import (
    Closed,
    Count,
    Option,
    Place,
    Text,
    carries_secret,
    names_secret,
    refused,
)

# Formats whose files are read where they are; all others are rows that only Spark can give, and are copied once.
FILE_FORMATS = ("parquet", "delta", "orc", "avro", "csv", "json", "text", "binaryFile")
_SPARKS_OWN = ("org.apache.spark.sql.", "com.databricks.spark.")  # classes, and older names of them
_BY_ANY_CASE = {name.lower(): name for name in (*FILE_FORMATS, "jdbc")}

# Reader options that lose rows, hide damage, or go around a key of ours. Spark reads options case-insensitively.
_REFUSED = {
    "ignorecorruptfiles": "a corrupt file would lose its rows without a word",
    "ignoremissingfiles": "a vanished file would lose its rows without a word",
    "columnnameofcorruptrecord": "the corrupt-record column is sparkscore's own: a malformed line is a row error",
    "badrecordspath": "malformed lines would leave the run uncounted",
    "path": "the place is `source.location`",
    "paths": "the place is `source.location`",
    "versionasof": "the version is `source.version`",
    "timestampasof": "the time is `source.timestamp`",
}
_REFUSED_MODES = ("dropmalformed", "failfast")


def checked_options(options: dict[str, str]) -> dict[str, str]:
    """Refuse options of a reader that lose rows, hide damage, or go around a key of ours."""
    for name, value in options.items():
        lower = name.lower()
        why = _REFUSED.get(lower)
        if lower == "mode" and value.lower() in _REFUSED_MODES:
            why = "a malformed line is a row error, neither dropped nor the end of the job"
        if why:
            raise refused("SPS-SPEC-VALUE", f"Option {name!r} is refused: {why}", f"Take {name!r} out of the options.")
    return options


def _no_secrets(options: dict[str, str]) -> dict[str, str]:
    for name, value in options.items():
        if names_secret(name) or carries_secret(value):
            fix = "Give it to the Spark session or the machine's identity; a pipeline file holds no secret."
            raise refused("SPS-SPEC-VALUE", f"Option {name!r} looks like a secret", fix)
    return options


Options = Annotated[dict[str, Option], AfterValidator(_no_secrets)]


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _format(value: Any) -> Any:
    """Give our formats by the names that this version knows, in any case; Spark's own classes go around them."""
    if not isinstance(value, str):
        return value
    lower = value.lower()
    if lower == "kafka":
        raise refused("SPS-SPEC-LATER", "Source format 'kafka' is not in this version", "Use another format.")
    inside = set(lower.split(".")) if lower.startswith(_SPARKS_OWN) else set()
    ours = [name for name in FILE_FORMATS if name.lower() in inside]
    if ours:
        fix = f"Write `format: {ours[0]}`."
        raise refused("SPS-SPEC-VALUE", f"Expected the name of a format, got a class of Spark's, {value!r}", fix)
    return _BY_ANY_CASE.get(lower, value)


_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_REFERENCES_LATER = ("secretsmanager:", "dbutils:")


def _references(value: Any) -> Any:
    """Take references alone: what is no reference may be the secret itself, and is not repeated."""
    for name, reference in value.items() if isinstance(value, Mapping) else ():
        if isinstance(reference, str) and reference.startswith(_REFERENCES_LATER):
            raise refused("SPS-SPEC-LATER", f"{reference!r} is not in this version", "Use env:NAME.")
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            fix = f"Write `{name}: env:NAME`, and set the environment variable NAME of the driver."
            raise refused("SPS-SPEC-VALUE", "Expected a reference to a secret, env:NAME, got something else", fix)
    return value


References = Annotated[dict[Text, Text], BeforeValidator(_references)]


def refuse_twice(options: Mapping[str, str], credentials: Mapping[str, str]) -> None:
    """Refuse an option that is given, and referred to as a secret too."""
    given = {name.lower() for name in options}
    twice = [name for name in credentials if name.lower() in given]
    if twice:
        message = f"Expected {twice[0]!r} in options or in credentials, got it in both"
        raise refused("SPS-SPEC-VALUE", message, "Keep one of them.")


class Source(Closed):
    """The rows: a format and a place, or a table, and what of it is the input."""

    format: Annotated[Text | None, BeforeValidator(_format)] = None
    location: Annotated[tuple[Place, ...] | None, BeforeValidator(_list), Field(min_length=1)] = None
    table: Text | None = None
    schema_: Annotated[Text | None, Field(alias="schema")] = None
    options: Annotated[Options, AfterValidator(checked_options)] = {}
    where: Text | None = None
    version: Count | None = None
    timestamp: Text | None = None
    credentials: References = {}

    @property
    def has_files(self) -> bool:
        """Whether its place holds files that are read where they are; a table's files are known to Spark alone."""
        return self.table is None and self.format in FILE_FORMATS

    @model_validator(mode="after")
    def _complete(self) -> Source:
        self._check_place()
        if self.version is not None and self.timestamp is not None:
            raise refused("SPS-SPEC-VALUE", "Expected version or timestamp, got both", "Keep one of them.")
        if self.format not in ("delta", None) and (self.version is not None or self.timestamp is not None):
            message = f"Expected version and timestamp only with format delta, got format {self.format}"
            raise refused("SPS-SPEC-VALUE", message, "Take them out: only Delta has versions.")
        if self.format == "delta" and self.schema_:
            raise refused("SPS-SPEC-VALUE", "Expected no schema with format delta, got one", "Take `schema` out.")
        if self.credentials and (self.has_files or self.table):
            fix = "Take `credentials` out: files and tables are reached by the identity of the session or the machine."
            raise refused("SPS-SPEC-VALUE", "Expected credentials only where options take them", fix)
        refuse_twice(self.options, self.credentials)
        options = {name.lower(): value for name, value in self.options.items()}
        infers = options.get("inferschema", "").lower() == "true"
        if self.format in ("csv", "json") and self.table is None and not self.schema_ and not infers:
            fix = 'Write `schema: "id bigint, amount double"`, or set options.inferSchema to true.'
            raise refused("SPS-SPEC-KEY", f"Key 'schema' is missing: {self.format} has no types of its own", fix)
        if self.format == "jdbc":
            self._check_jdbc(options)
        return self

    def _check_place(self) -> None:
        if self.table is not None:
            given = [
                k for k, v in (("location", self.location), ("schema", self.schema_), ("options", self.options)) if v
            ]
            if given:
                message = f"Expected a table alone, got {given[0]} beside it"
                raise refused("SPS-SPEC-VALUE", message, f"Take `{given[0]}` out: the catalog knows it.")
            return
        if self.format is None:
            fix = "Write `format:`, for example parquet, with `location:`; or `table:` with a name of the catalog."
            raise refused("SPS-SPEC-KEY", "Key 'format' is missing", fix)
        if self.location is None and self.has_files:
            raise refused("SPS-SPEC-KEY", "Key 'location' is missing", "Write `location:` with a path or URI.")

    def _check_jdbc(self, options: Mapping[str, str]) -> None:
        """Say what Spark would say later, and less clearly."""
        for key, value in (("location", self.location), ("schema", self.schema_)):
            if value:
                fix = f"Take `{key}` out: the place is options.url, and types are options.customSchema."
                raise refused("SPS-SPEC-VALUE", f"Expected no {key} with format jdbc, got one", fix)
        if "url" not in options or ("dbtable" in options) == ("query" in options):
            fix = 'Write `options: {url: "jdbc:postgresql://host/db", dbtable: schema.table}`, or `query:` for dbtable.'
            raise refused("SPS-SPEC-KEY", "Expected options.url, and one of options.dbtable and options.query", fix)


_STEPS = ("with", "where", "select", "rename", "drop")


class Step(Closed):
    """One step of `prepare`: exactly one of with, where, select, rename, drop."""

    with_: Annotated[dict[Text, Text] | None, Field(alias="with", min_length=1)] = None
    where: Text | None = None
    select: Annotated[tuple[Text, ...] | None, Field(min_length=1)] = None
    rename: Annotated[dict[Text, Text] | None, Field(min_length=1)] = None
    drop: Annotated[tuple[Text, ...] | None, Field(min_length=1)] = None

    @property
    def kind(self) -> str:
        """Which of the five it is."""
        given = (self.with_, self.where, self.select, self.rename, self.drop)
        return next(name for name, value in zip(_STEPS, given, strict=True) if value is not None)

    @classmethod
    def expanded(cls, value: Any) -> Any:
        """Refuse a step of no or several kinds; there is no short form."""
        given = [k for k in _STEPS if isinstance(value, Mapping) and value.get(k) is not None]
        known_only = isinstance(value, Mapping) and set(value) <= set(_STEPS)
        if known_only and len(given) != 1:
            message = f"Expected exactly one of {', '.join(_STEPS)}, got {' and '.join(given) or 'none'}"
            raise refused("SPS-SPEC-VALUE", message, "Write one step for each, in the order wanted.")
        return value
