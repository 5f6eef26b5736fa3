"""What a source is: files of a format, a table of the catalog, or rows that only Spark can give."""

from __future__ import annotations

from typing import Any

import pytest

from tests.spec.test_pipeline import load, refusal, source


def jdbc(options: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    return {"format": "jdbc", "options": {"url": "jdbc:x://h/d", "dbtable": "t", **(options or {})}} | keys


@pytest.mark.parametrize(
    ("written", "read", "has_files"),
    [
        ({"format": "CSV", "location": "/in", "schema": "a int"}, "csv", True),
        ({"format": "BinaryFile", "location": "/in"}, "binaryFile", True),
        ({"format": "avro", "location": "/in"}, "avro", True),
        ({"format": "mongodb", "options": {"collection": "tx"}}, "mongodb", False),
        ({"format": "delta", "table": "lake.tx", "version": 3}, "delta", False),
        ({"table": "lake.tx"}, None, False),
    ],
    ids=str,
)
def test_a_source_is_a_format_in_any_case_with_a_place_or_a_table(
    written: dict[str, Any], read: str | None, has_files: bool
) -> None:
    found = load(source=written).source
    assert (found.format, found.has_files) == (read, has_files)


@pytest.mark.parametrize(
    "written",
    [
        {"location": "/a"},
        {"format": "jdbc", "options": {"url": "jdbc:x://h/d"}},
        jdbc(options={"query": "SELECT 1"}),
    ],
    ids=str,
)
def test_what_a_source_lacks_is_asked_for(written: dict[str, Any]) -> None:
    failure = refusal(source=written)
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-KEY", "source")


@pytest.mark.parametrize(
    ("written", "at", "says"),
    [
        (source(format="com.databricks.spark.csv"), "source.format", "a class of Spark's"),
        (source(format="org.apache.spark.sql.avro.AvroFileFormat"), "source.format", "a class of Spark's"),
        (source(table="a.b"), "source", "location beside it"),
        ({"table": "a.b", "options": {"x": "1"}}, "source", "options beside it"),
        ({"table": "a.b", "credentials": {"x": "env:X"}}, "source", "credentials"),
        (source(credentials={"key": "env:KEY"}), "source", "credentials"),
        (jdbc(credentials={"password": "hunter2"}), "source.credentials", "a reference to a secret"),
        (jdbc(credentials={"user": "env:X"}, options={"USER": "me"}), "source", "'user' in options or in"),
        (jdbc(location="/in"), "source", "no location with format jdbc"),
        (jdbc(schema="a int"), "source", "no schema with format jdbc"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(written: dict[str, Any], at: str, says: str) -> None:
    failure = refusal(source=written)
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-VALUE", at)
    assert says in failure.message
    assert "hunter2" not in str(failure)
