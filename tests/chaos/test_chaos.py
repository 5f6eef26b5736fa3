"""A share of the chaos in each run of the tests, another one each day; and the page says what was played."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos import report
from tests.chaos.catalogue import FAULTS
from tests.chaos.drivers import HOWS, POINTS

HOME = Path(__file__).parents[2]
# Of these, crash points and twins are made; they have days of their own.
_OF_POINTS = ("F10", "F11", "F25", "F27")
ALONE = [fault.id for fault in FAULTS if fault.id not in _OF_POINTS]


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_todays_fault_or_crash_point_leaves_every_row_exact() -> None:
    day = datetime.now(UTC).toordinal()
    command = [sys.executable, "-m", "tests.chaos", "--only", _share(day), "--seeds", "1", "--seed", str(day)]
    print(" ".join(command[1:]))
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOME)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def _share(day: int) -> str:
    """A fault on even days, a crash point on odd ones, with another seed each time."""
    every = [f"{point}-{when}-{how}" for point in POINTS for when in ("before", "after") for how in HOWS]
    turn = day // 2
    return every[turn * 25 % len(every)] if day % 2 else ALONE[turn % len(ALONE)]  # 25 and 72 have no common divisor


def test_each_fault_and_each_crash_point_has_its_day() -> None:
    days = {_share(day) for day in range(2 * 72)}
    assert {fault.id for fault in FAULTS} - days == set(_OF_POINTS)
    assert len(days) == len(ALONE) + 72


def test_the_page_is_what_was_played() -> None:
    played = json.loads(report.PLAYED.read_text(encoding="utf-8"))
    assert report.PAGE.read_text(encoding="utf-8") == report.page(played)
    broken = [f"{one['fault']} {one['seed']}: {one['failures']}" for one in played if one["failures"]]
    assert not broken
