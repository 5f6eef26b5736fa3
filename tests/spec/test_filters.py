"""Which expressions are comparisons of columns with literals, and which are beyond."""

from __future__ import annotations

import datetime as dt

import pytest

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
