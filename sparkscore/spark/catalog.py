"""A table of the catalog as what it is: a Delta table, files that hold all of its truth, or rows of Spark's own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sparkscore.errors import error
from sparkscore.spec.source import FILE_FORMATS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

__all__ = ["CatalogTable", "look_up"]

_DETAILS = "# Detailed Table Information"
_FORMATS = {name.lower(): name for name in FILE_FORMATS}


@dataclass(frozen=True)
class CatalogTable:
    """What the catalog says of a table. `reason` says why its rows are not those of its files; empty when they are.

    `partitions` are its partitions as folders below the location, `files` are its files, both not URL-encoded.
    """

    format: str
    location: str
    schema: StructType
    options: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    partitions: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()


def look_up(spark: SparkSession, name: str) -> CatalogTable:
    """Ask the catalog what a table is.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` for what is no name of a table, or a table of lines whose options cannot be asked for.
    """
    from pyspark.errors import ParseException

    try:
        schema = spark.read.table(name).schema  # from here on the name is known to be one, and no other SQL
    except ParseException as cause:
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected the name of a table, such as lake.transactions. Got {name!r}.",
            "Quote a part with other signs in backticks.",
            at="source.table",
        ) from cause
    facts = _facts(spark, name)
    provider, location = str(facts.get("provider", "")).lower(), str(facts.get("location", ""))
    form = _FORMATS.get(provider, provider)
    if facts.get("type") == "VIEW" or not provider:
        return CatalogTable("", "", schema, reason="it is a view")
    if form == "delta":
        return CatalogTable(form, location, schema)
    if form not in FILE_FORMATS or not location:
        return CatalogTable(form, location, schema, reason=f"its provider is {provider}")
    if "storage_properties" not in facts and form in ("csv", "json", "text"):
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected a catalog that tells the options of the {form} table {name}. Got one that does not.",
            f"Write `format: {form}` with `location: {location}`, `schema` and `options`.",
            at="source.table",
        )
    return _file_table(spark, name, form, facts, schema)


def _file_table(spark: SparkSession, name: str, form: str, facts: dict[str, Any], schema: StructType) -> CatalogTable:
    location = str(facts["location"])
    more = [f.name for f in schema.fields if set(f.metadata) - {"comment"}]  # char's padding, a default's value
    if more:
        reason = f"column {more[0]} has a meaning that its files do not hold"
        return CatalogTable(form, location, schema, reason=reason)
    partitions: frozenset[str] = frozenset()
    if facts.get("partition_columns"):
        partitions = frozenset(row[0] for row in spark.sql(f"SHOW PARTITIONS {name}").collect())
    paths = frozenset(unquote(path) for path in spark.read.table(name).inputFiles())
    options = {k: v for k, v in facts.get("storage_properties", {}).items() if k.lower() not in ("path", "location")}
    return CatalogTable(form, location, schema, options, partitions=partitions, files=paths)


def _facts(spark: SparkSession, name: str) -> dict[str, Any]:
    """Give what DESCRIBE says, by the names of its JSON form, which version 2 tables and Spark 3.5 do not have."""
    from pyspark.errors import AnalysisException, ParseException

    try:
        told = json.loads(spark.sql(f"DESCRIBE TABLE EXTENDED {name} AS JSON").collect()[0][0])
        found: dict[str, Any] = {"storage_properties": {}, **told}
    except (AnalysisException, ParseException):
        rows = [(row[0], row[1]) for row in spark.sql(f"DESCRIBE TABLE EXTENDED {name}").collect()]
        details = rows[rows.index((_DETAILS, "")) :] if (_DETAILS, "") in rows else []
        found = {key.lower(): value for key, value in details}
        found["partition_columns"] = any(key == "# Partition Information" for key, _ in rows)
    return found
