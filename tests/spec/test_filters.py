"""Which expressions are comparisons of columns with literals, and which are beyond."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from sparkscore.runtime.filters import kept, may_hold
from sparkscore.spec.expressions import render
from sparkscore.spec.filters import BeyondError, columns_of, filter_of

KINDS = {"Id": "int", "x": "float", "t": "string", "day": "date", "flag": "bool"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id = 1", ("=", "Id", 1)),
        ("1 < ID", (">", "Id", 1)),
        ("x >= -2", (">=", "x", -2.0)),
        ("x < 1e3", ("<", "x", 1000.0)),
        ("t <> 'a\\'b'", ("<>", "t", "a'b")),
        ("day > DATE '2020-02-29'", (">", "day", dt.date(2020, 2, 29))),
        ("flag", ("=", "flag", True)),
        ("NOT flag = false", ("not", ("=", "flag", False))),
        ("t IS NOT NULL", ("not", ("null", "t"))),
        ("id IN (1, 2)", ("or", ("=", "Id", 1), ("=", "Id", 2))),
        ("id NOT BETWEEN 1 AND 2", ("not", ("and", (">=", "Id", 1), ("<=", "Id", 2)))),
        ("(id = 1 OR flag) AND x = 0", ("and", ("or", ("=", "Id", 1), ("=", "flag", True)), ("=", "x", 0.0))),
    ],
)
def test_comparisons_are_taken_apart(text, expected):
    found = filter_of(render(text, "where"), KINDS)
    assert found == expected
    assert columns_of(found) <= set(KINDS)


@pytest.mark.parametrize(
    "text",
    [
        *("id = 1.5", "id = '1'", "t = 1", "x = '1'", "x = 99999999", "day > '2020-01-01'", "flag = 1", "id = true"),
        *(
            "id = 9223372036854775808",
            "day > DATE '2020'",
            "day > DATE '20200101'",
            "t LIKE 'a%'",
            "abs(x) > 1",
            "x + 1 > 2",
            "id = x",
        ),
        *("id <=> 1", "id = NULL", "id IN (1, NULL)", "other = 1", "s.id = 1", "t", "1 = 1", "true", "NOT id"),
        *("CASE WHEN flag THEN true END", "x > double('NaN')", "day > TIMESTAMP '2020-01-01 00:00:00'"),
    ],
)
def test_anything_else_is_beyond(text):
    with pytest.raises(BeyondError):
        filter_of(render(text, "where"), KINDS)


@pytest.mark.parametrize("text", ["id IN ({})", "{}"])
def test_a_thousand_values_are_a_tree_of_some_levels_which_a_worker_walks(text):
    values = ", ".join(map(str, range(1500))) if "IN" in text else " OR ".join(f"id = {i}" for i in range(1000))
    found = filter_of(render(text.format(values), "where"), KINDS)
    assert columns_of(found) == {"Id"}
    ids = pa.array([-1, 0, 999, 2000, None], pa.int64())
    assert kept(found, {"Id": ids}).to_pylist() == [False, True, True, False, None]
    assert may_hold(found, {"Id": (5, 6)})
    assert not may_hold(found, {"Id": (5000, 6000)})


def test_what_is_nested_too_deeply_is_beyond():
    with pytest.raises(BeyondError, match="nested too deeply"):
        filter_of(f"{'NOT (' * 120}`Id` = 1{')' * 120}", KINDS)
