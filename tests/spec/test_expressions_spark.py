"""Spark's own parser reads an expression and its re-rendered form as the same tree."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from tests.spec.test_expressions import ACCEPTED

# Typed literals are written as casts of the same value, and `b is not null` as `NOT b IS NULL`; Spark takes a hint
# only in a query.
WRITTEN_OTHERWISE = ("nanvl(a, 0D)", "date_add(d, 1)", "1.5BD", "a is null or b is not null", "/*+ broadcast")


@pytest.mark.spark
def test_spark_reads_the_rendered_form_as_what_was_written(spark: SparkSession) -> None:
    parser = spark._jsparkSession.sessionState().sqlParser()
    for written, rendered in ACCEPTED:
        if not written.startswith(WRITTEN_OTHERWISE):
            trees = [parser.parseExpression(text).toString().lower() for text in (written, rendered)]
            assert trees[0] == trees[1]
