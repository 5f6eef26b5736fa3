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
# Two faults that share a session; crash points only beside those whose session is local.
PAIRS = ("F1,F16", "F2,F13", "F7,F9", "F3,F15", "F21", "F5,F28", "F8,F12", "F6,F22", "F14,F26", "F17,F19", "F4,F20")


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_todays_faults_and_crash_point_leave_every_row_exact() -> None:
    day = datetime.now(UTC).toordinal()
    names = PAIRS[day % len(PAIRS)].split(",")
    if {f.group for f in FAULTS if f.id in names} == {"local"}:
        names.append(_point(day))
    command = [sys.executable, "-m", "tests.chaos", "--only", ",".join(names), "--seeds", "1", "--seed", str(day)]
    print(" ".join(command[1:]))
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOME)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def _point(number: int) -> str:
    every = [f"{point}-{when}-{how}" for point in POINTS for when in ("before", "after") for how in HOWS]
    return every[number * 25 % len(every)]  # 25 and 72 have no common divisor: in 72 days each has had its turn


def test_each_fault_has_its_day() -> None:
    played = {name for pair in PAIRS for name in pair.split(",")}
    assert {f.id for f in FAULTS} - played == {"F10", "F11", "F25", "F27"}  # of which crash points and twins are made
    assert len({_point(number) for number in range(72)}) == 72


def test_the_page_is_what_was_played() -> None:
    played = json.loads(report.PLAYED.read_text(encoding="utf-8"))
    assert report.PAGE.read_text(encoding="utf-8") == report.page(played)
    broken = [f"{one['fault']} {one['seed']}: {one['failures']}" for one in played if one["failures"]]
    assert not broken
