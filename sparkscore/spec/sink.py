"""Where the scores go: a Delta table, a folder of files, or whatever else Spark can append to."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from sparkscore.spec.fields import Closed, Place, Text, near, refused
from sparkscore.spec.source import Options, References, refuse_twice

__all__ = ["FILE_FORMATS", "FLAT_FORMATS", "Sink"]

# Formats whose units are files of their own, committed by a manifest.
FILE_FORMATS = ("parquet", "orc", "json", "csv", "avro")
# Of these, the ones whose columns are single values: `_ss` stands there as `_ss_status`, `_ss_stage`, …
FLAT_FORMATS = ("csv",)
_REFUSED = {
    "text": ("SPS-SPEC-VALUE", "it holds one column of text, and a score has more", "Use csv or json."),
    "binaryfile": ("SPS-SPEC-VALUE", "Spark can only read it", "Use parquet."),
    "kafka": ("SPS-SPEC-LATER", "", "Use delta, and publish from its committed versions."),
}
_TABLE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,2}")

# Writer options that sparkscore sets itself, or that would undo its one commit a unit.
_OURS = ("txnappid", "txnversion", "replacewhere", "partitionoverwritemode", "overwriteschema", "datachange", "path")


def _format(value: Any) -> Any:
    why = _REFUSED.get(value.lower()) if isinstance(value, str) else None
    if why is not None and why[0] == "SPS-SPEC-LATER":
        raise refused("SPS-SPEC-LATER", f"Sink format {value!r} is not in this version", why[2])
    if why is not None:
        raise refused("SPS-SPEC-VALUE", f"Expected a format that holds scores, got {value!r}: {why[1]}", why[2])
    known = ("delta", *FILE_FORMATS)
    if isinstance(value, str) and value not in known and value.lower() in known:
        raise refused("SPS-SPEC-VALUE", f"Expected one of {', '.join(known)}, got {value!r}", near(value, known))
    return value


def _table(value: Any) -> Any:
    if isinstance(value, str) and not _TABLE.fullmatch(value):
        message = f"Expected a table's name of one to three parts of letters, digits and '_', got {value!r}"
        raise refused("SPS-SPEC-VALUE", message, "Write, for example, `table: lake.scores`.")
    return value


def _sink_options(options: dict[str, str]) -> dict[str, str]:
    ours = [name for name in options if name.lower() in _OURS]
    if ours:
        message = f"Option {ours[0]!r} is refused: exactly-once commits depend on it"
        raise refused("SPS-SPEC-VALUE", message, f"Take {ours[0]!r} out of the options.")
    return options


class Sink(Closed):
    """The table of the scores."""

    format: Annotated[Text, BeforeValidator(_format)]
    location: Place | None = None
    table: Annotated[Text | None, BeforeValidator(_table)] = None
    mode: Literal["append", "overwrite"] = "append"
    replace_where: Text | None = None
    partition_by: tuple[Text, ...] = ()
    options: Annotated[Options, AfterValidator(_sink_options)] = {}
    credentials: References = {}
    provenance: Literal["errors", "full"] = "errors"
    publish: Literal["progressive", "atomic"] = "progressive"

    @property
    def is_delta(self) -> bool:
        """Whether the rows end in a Delta table."""
        return self.format == "delta"

    @property
    def is_foreign(self) -> bool:
        """Whether a format of neither Delta nor files takes the rows: units reach it at least once."""
        return not self.is_delta and self.format not in FILE_FORMATS

    @property
    def is_staged(self) -> bool:
        """Whether its units are staged: those of all sinks but a Delta table that shows each as it is committed."""
        return not self.is_delta or self.publish == "atomic"

    @property
    def is_flat(self) -> bool:
        """Whether its columns are single values."""
        return self.is_foreign or self.format in FLAT_FORMATS

    @property
    def place(self) -> str:
        """What a person calls it."""
        return self.location or self.table or self.options.get("dbtable") or self.format

    @model_validator(mode="after")
    def _placed(self) -> Sink:
        if self.location is not None and self.table is not None:
            raise refused("SPS-SPEC-VALUE", "Expected location or table, got both", "Keep one of them.")
        if self.table is not None and not self.is_delta:
            message = f"Expected a catalog table of format delta, got {self.format}: its files have no commit of a run"
            raise refused("SPS-SPEC-VALUE", message, "Write `location:`, or `format: delta`.", "sink.table")
        if self.location is None and self.table is None and not self.is_foreign:
            raise refused("SPS-SPEC-KEY", "Key 'location' is missing", "Write `location:` with a path or URI.")
        return self

    @model_validator(mode="after")
    def _whole(self) -> Sink:
        """Several commits cannot be one overwrite, and only Delta can replace what is there in one."""
        if self.mode == "overwrite" and not self.is_delta:
            message = f"Expected mode append with format {self.format}, got overwrite: it has no commit that replaces"
            raise refused("SPS-SPEC-VALUE", message, "Use `format: delta`, or a new location.", "sink.mode")
        if self.mode == "overwrite" and self.publish != "atomic":
            message = "Expected publish: atomic with mode: overwrite, got progressive: each unit would replace the last"
            raise refused("SPS-SPEC-VALUE", message, "Write `publish: atomic`.", "sink.publish")
        if self.replace_where is not None and self.mode != "overwrite":
            message = "Expected mode: overwrite with replace_where, got append"
            raise refused("SPS-SPEC-VALUE", message, "Write `mode: overwrite` and `publish: atomic`.", "sink.mode")
        if self.credentials and not self.is_foreign:
            message = f"Expected credentials only with a database or a format like it, got them with {self.format}"
            fix = "Take `credentials` out: files and tables are reached by the identity of the session or the machine."
            raise refused("SPS-SPEC-VALUE", message, fix, "sink.credentials")
        refuse_twice(self.options, self.credentials)
        if self.partition_by and self.is_foreign:
            message = f"Expected partition_by only with delta and files, got it with {self.format}"
            raise refused("SPS-SPEC-VALUE", message, "Take `partition_by` out.", "sink.partition_by")
        return self
