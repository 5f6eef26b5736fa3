"""Progress without a terminal: plain lines, few of them, with a forecast that rests on two points."""

from __future__ import annotations

from sparkscore.cli.progress import Lines


def _lines(*reports: tuple[float, int, int]) -> list[str]:
    written: list[str] = []
    now = [0.0]
    lines = Lines(written.append, lambda: now[0])
    for at, done, rows in reports:
        now[0] = at
        lines(done, 10, rows, 1000, 3)
    return written


def test_a_line_tells_units_rows_bad_rows_and_the_time_left() -> None:
    assert _lines((0, 1, 100), (10, 3, 300)) == [
        "unit 1 of 10: 100 of 1,000 rows, 3 bad",
        "unit 3 of 10: 300 of 1,000 rows, 3 bad, about 35 s left",
    ]


def test_there_is_at_most_one_line_a_second_and_always_the_last() -> None:
    written = _lines(*((unit / 10, unit, 100 * unit) for unit in range(1, 11)))
    assert [line.split(":")[0] for line in written] == ["unit 1 of 10", "unit 10 of 10"]
    assert "left" not in written[-1]


def test_rows_that_nobody_planned_have_no_total() -> None:
    written: list[str] = []
    Lines(written.append, lambda: 0.0)(1, 2, 50, None, 0)
    assert written == ["unit 1 of 2: 50 rows, 0 bad"]
