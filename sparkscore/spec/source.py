"""Where the rows come from, and the SQL steps between the source and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sparkscore.spec.fields import (
    Closed,
    Count,
    Later,
    Option,
    Place,
    Text,
    carries_secret,
    names_secret,
    near,
    refused,
)

_NOW = ("parquet", "delta", "orc", "csv", "json", "text", "binaryFile")
_LATER = ("avro", "jdbc", "kafka")

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


def _checked_options(options: dict[str, str]) -> dict[str, str]:
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
    if not isinstance(value, str) or value in _NOW:
        return value
    fix = near(value, _NOW + _LATER) + f"This version reads {', '.join(_NOW)}."
    if fix.startswith("Did you mean") and value not in _LATER:
        raise refused("SPS-SPEC-VALUE", f"Expected one of {', '.join(_NOW)}, got {value!r}", fix)
    raise refused("SPS-SPEC-LATER", f"Source format {value!r} is not in this version", f"Use {', '.join(_NOW)}.")


class Source(Closed):
    """The rows: a format, a place, and what of it is the input."""

    format: Annotated[Literal["parquet", "delta", "orc", "csv", "json", "text", "binaryFile"], BeforeValidator(_format)]
    location: Annotated[tuple[Place, ...] | None, BeforeValidator(_list), Field(min_length=1)] = None
    table: Later = None
    schema_: Annotated[Text | None, Field(alias="schema")] = None
    options: Annotated[Options, AfterValidator(_checked_options)] = {}
    where: Text | None = None
    version: Count | None = None
    timestamp: Text | None = None
    credentials: Later = None

    @model_validator(mode="after")
    def _complete(self) -> Source:
        if self.location is None:
            raise refused("SPS-SPEC-KEY", "Key 'location' is missing", "Write `location:` with a path or URI.")
        if self.version is not None and self.timestamp is not None:
            raise refused("SPS-SPEC-VALUE", "Expected version or timestamp, got both", "Keep one of them.")
        if self.format != "delta" and (self.version is not None or self.timestamp is not None):
            message = f"Expected version and timestamp only with format delta, got format {self.format}"
            raise refused("SPS-SPEC-VALUE", message, "Take them out: only Delta has versions.")
        if self.format == "delta" and self.schema_:
            raise refused("SPS-SPEC-VALUE", "Expected no schema with format delta, got one", "Take `schema` out.")
        infers = {k.lower(): v.lower() for k, v in self.options.items()}.get("inferschema") == "true"
        if self.format in ("csv", "json") and not self.schema_ and not infers:
            fix = 'Write `schema: "id bigint, amount double"`, or set options.inferSchema to true.'
            raise refused("SPS-SPEC-KEY", f"Key 'schema' is missing: {self.format} has no types of its own", fix)
        return self


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
