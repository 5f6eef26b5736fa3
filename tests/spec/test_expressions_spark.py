"""Spark's own parser reads an expression and its re-rendered form as the same tree, and both give the same value."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from sparkscore.errors import SpecError
from sparkscore.spark.prepare import apply_steps, apply_where
from sparkscore.spec.source import Step
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


def _frames(spark: SparkSession) -> Iterator[DataFrame]:
    """Two rows with columns of the names that the expressions use: a column has another type in each frame."""
    shared = """'2013-01-01 05:06:07.089' as t, date '2013-01-02' as day, 'Ann' as name, array(1, 2, 3) as v,
        array(named_struct('price', 3)) as items, 7 as `odd name`, 8 as `a.b`, 9 as `we``ird`, 'x' as `user`,
        2 as `date`"""
    for values in (
        "3 as a, 2 as b, 5 as c, date '2013-01-01' as d, map('k', 1) as m, 4 as e, 'aab,c' as s",
        "3 as a, 2 as b, 5 as c, 7 as d, map('k', 1) as m, 4 as e, named_struct('a', named_struct('b', 1)) as s",
        "3 as a, 2 as b, 5 as c, 7 as d, map('k', 1) as m, 4 as e, '2013-01-05' as s, 10 as amount",
        "array(1, 2) as a",
        "true as a, false as b, true as c, date '2013-01-01' as d, map('k', 1) as m, 4 as e, '2013-01-05' as s",
    ):
        whole = spark.sql(f"select {values}, {shared}").withColumn("t", F.col("t").cast("timestamp"))
        nulls = whole.select(*(F.lit(None).cast(f.dataType).alias(f.name) for f in whole.schema))
        yield whole.union(nulls)


@pytest.fixture
def lenient(spark: SparkSession) -> Iterator[SparkSession]:
    """Null instead of an error for a text that is no date: a column's text cannot suit every expression."""
    spark.conf.set("spark.sql.ansi.enabled", "false")
    yield spark
    spark.conf.unset("spark.sql.ansi.enabled")


@pytest.mark.spark
def test_an_expression_and_its_rendered_form_give_the_same_value(lenient: SparkSession) -> None:
    left = {written: rendered for written, rendered in ACCEPTED if not written.startswith("/*+")}
    for frame in _frames(lenient):
        pairs = {w: r for w, r in left.items() if _resolves(frame, w)}
        columns = [
            F.expr(text).alias(f"{side}{i}")
            for i, p in enumerate(pairs.items())
            for side, text in zip("wr", p, strict=True)
        ]
        for row in frame.select(*columns).collect():
            for i, written in enumerate(pairs):
                assert _same(row, i), written
        left = {w: r for w, r in left.items() if w not in pairs}
    assert not left  # each was tried


def _resolves(frame: DataFrame, text: str) -> bool:
    try:
        frame.select(F.expr(text))
    except AnalysisException:
        return False
    return True


def _same(row: Row, i: int) -> bool:
    return repr(row[f"w{i}"]) == repr(row[f"r{i}"])


@pytest.mark.spark
@pytest.mark.parametrize("name", ["user", "`current_timestamp`", "`CURRENT_DATE`", "`session_user`"])
def test_a_column_that_is_not_there_is_not_the_clock_or_the_user(spark: SparkSession, name: str) -> None:
    frame = spark.range(1)
    assert frame.select(F.expr(name)).first()[0]  # what Spark makes of it
    for apply in (
        lambda: apply_where(frame, f"{name} is not null"),
        lambda: apply_steps(frame, [Step(where=f"{name} is not null")]),
        lambda: apply_steps(frame, [Step(**{"with": {"x": name}})]),
    ):
        with pytest.raises(SpecError, match=r"SPS-SPEC-COLUMN.*clock or the user"):
            apply()
    column = name.strip("`")
    assert apply_where(frame.withColumn(column, F.lit(1)), f"{name} = 1").count() == 1
