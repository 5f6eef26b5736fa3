"""Each crash point of the run's protocol under a resume, a rerun and twins: no row is lost, none is there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.plans import read_plan
from sparkscore.run.result import Summary
from tests.protocol.stand_ins import SINKS, rows_of
from tests.protocol.world import RUN, Death, Driver, Point, World

# In the order of time, `reliability.md` 7.6.
POINTS = ("C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C11", "C9", "C12", "C10")


def wrong(world: World) -> list[str]:
    """Say what is wrong with a run that ended well: rows lost, twice or not as scored, or books that disagree."""
    found = []
    store = Driver(world, 0, False).store
    plan = read_plan(store, RUN)
    assert plan is not None
    model = int(plan.header["model"]["version"])
    scored = [row for unit in plan.units for row in rows_of(plan, unit, model)]
    expected = Counter((row.key, row.value, row.status) for row in scored if row.status != "filtered")
    seen = Counter((row.key, row.value, row.status) for row in world.rows())
    lost, twice = expected - seen, seen - expected
    found += [f"lost: {row}" for row in lost] + [f"duplicated or wrong: {row}" for row in twice]
    bad = {f"{RUN}/{row.key}" for row in scored if row.status == "error"}
    if set(world.quarantine) != bad:
        found.append(f"quarantine holds {sorted(world.quarantine)}")
    if world.line == "files" and world.rows() and Counter(world.shown()) != Counter(world.rows()):
        found.append("plain readers of the folder see other rows than the run's manifest gives")
    if not world.events("run_closed"):
        found.append("no event says that the run closed")
    return found


def succeeded(outcome: object) -> Summary:
    assert isinstance(outcome, Summary), outcome
    assert outcome.state == "SUCCEEDED"
    assert (outcome.ok_rows, outcome.quarantined_rows, sum((outcome.filtered_rows or {}).values())) == (8, 3, 1)
    assert outcome.planned_rows == 12
    return outcome


def dies_at(world: World, point: Point) -> None:
    """Start a driver and kill it at a point."""
    driver = world.start()
    assert driver.until(lambda at: at == point), f"no driver came to {point}: {driver.outcome}"
    driver.kill()
    assert isinstance(driver.outcome, Death)


def resume(world: World, point: Point) -> None:
    """The same run id once more, when the first driver is dead."""
    dies_at(world, point)
    succeeded(world.start().end())


def rerun(world: World, point: Point) -> None:
    """The driver dies there, the next one too if it comes there again, and two more starts follow."""
    dies_at(world, point)
    second = world.start()
    if second.until(lambda at: at == point):
        second.kill()
    succeeded(world.start().end())
    rows = len(world.rows())
    assert succeeded(world.start().end()).repeated
    assert len(world.rows()) == rows


def twin_that_wakes_late(world: World, point: Point) -> None:
    """The driver stands still there, is passed over, and wakes when its successor has ended."""
    zombie = _stands_still_at(world, point)
    succeeded(world.start().end())
    rows = len(world.rows())
    _wakes(zombie)
    assert len(world.rows()) == rows


def twin_that_wakes_early(world: World, point: Point) -> None:
    """The driver wakes when its successor knows where to go on, and stands right before it writes."""
    zombie = _stands_still_at(world, point)
    successor = world.start()
    successor.until(lambda at: at == Point("write", "before"))
    _wakes(zombie)
    succeeded(successor.end())


def _stands_still_at(world: World, point: Point) -> Driver:
    zombie = world.start()
    assert zombie.until(lambda at: at == point), f"no driver came to {point}: {zombie.outcome}"
    zombie.still = True
    return zombie


def _wakes(zombie: Driver) -> None:
    """Let a driver go on to its end: it learns that it was passed over, or it was past its last write that counts."""
    zombie.still = False
    outcome = zombie.end()
    fenced = isinstance(outcome, SparkscoreError) and outcome.code == "SPS-FENCED"
    assert fenced or "fence" in zombie.world.broken or succeeded(outcome)


HOWS: dict[str, Callable[[World, Point], None]] = {
    how.__name__: how for how in (resume, rerun, twin_that_wakes_late, twin_that_wakes_early)
}


@contextmanager
def played(**facts: Any) -> Iterator[World]:
    """Play in a world, and leave no driver behind."""
    world = World(**facts)
    with world.patched():
        try:
            yield world
        finally:
            for driver in world.drivers:
                driver.kill()


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with played(line=getattr(request, "param", "delta")) as found:
        yield found


each_line = pytest.mark.parametrize("world", SINKS, indirect=True)


@each_line
def test_an_undisturbed_run_passes_every_crash_point(world: World) -> None:
    seen = []
    driver = world.start()
    driver.until(lambda at: bool(seen.append(at)))
    succeeded(driver.outcome)
    assert not wrong(world)
    first = dict.fromkeys(point.name for point in seen if point.name in POINTS)
    assert tuple(first) == POINTS


@each_line
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", POINTS)
def test_no_row_is_lost_or_twice(world: World, name: str, when: str, how: str) -> None:
    HOWS[how](world, Point(name, when))
    assert not wrong(world)


def _loses(world: World, version: int) -> None:
    """Another writer's entry stands where a version was, as on a store without put-if-absent."""
    world.log[version] = replace(world.log[version], app_id=None, user_metadata="", rows=())


def test_of_two_drivers_that_make_a_lost_commit_again_one_does(world: World) -> None:
    """The second one is started when the first has told of the loss, and only by that learns what was lost where."""
    world.units = 1
    dies_at(world, Point("C7", "after"))
    _loses(world, 0)
    first = world.start()
    assert first.until(lambda at: at == Point("write", "before"))
    second = world.start(take_over=True)
    assert second.until(lambda at: at == Point("write", "before"))
    first.end()
    assert isinstance(second.end(), Summary)
    assert not wrong(world)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_driver_that_wakes_into_a_repair_adds_nothing_to_it(world: World, when: str) -> None:
    """It stood still before its commit, another driver's commit of the unit was lost, and a third makes it again."""
    world.units = 1
    zombie = _stands_still_at(world, Point("C6", "before"))
    successor = world.start()
    assert successor.until(lambda at: at == Point("C7", "after"))
    successor.kill()
    _loses(world, 0)
    third = world.start()
    assert third.until(lambda at: at == Point("shut out", when))
    _wakes(zombie)
    assert isinstance(third.end(), Summary)
    assert not wrong(world)


def test_a_driver_that_dies_in_a_repair_leaves_it_to_the_next(world: World) -> None:
    world.units = 1
    dies_at(world, Point("C7", "after"))
    _loses(world, 0)
    dies_at(world, Point("shut out", "after"))
    assert isinstance(world.start().end(), Summary)
    assert not wrong(world)


def _is_red(line: str, broken: str, case: str) -> bool:
    """Play a case, such as C5-after-resume, without a protection."""
    name, when, how = case.split("-")
    with played(line=line, broken=frozenset({broken})) as world:
        try:
            HOWS[how](world, Point(name, when))
        except AssertionError:
            return True
        return bool(wrong(world))


@pytest.mark.parametrize(
    "line, broken, noticed_by",
    [
        # With the attempt in the version, a successor that has looked already writes the unit once more.
        ("delta", "fence in the transaction", "C5-before-twin_that_wakes_early"),
        ("delta", "transactions", "C5-before-twin_that_wakes_late"),
        ("delta", "proof", "C5-after-resume"),
        ("delta", "write-once", "C1-before-twin_that_wakes_late"),
        ("files", "write-once", "C1-before-twin_that_wakes_late"),
        ("atomic delta", "transactions", "C8-before-twin_that_wakes_late"),
    ],
)
def test_without_a_protection_the_crash_points_turn_red(line: str, broken: str, noticed_by: str) -> None:
    assert not _is_red(line, "nothing", noticed_by)
    assert _is_red(line, broken, noticed_by)


def test_rows_stay_exact_without_the_fence_which_only_ends_a_driver_early() -> None:
    twins = [how for how in HOWS if how.startswith("twin")]
    cases = [f"{name}-{when}-{how}" for name, when, how in product(POINTS, ("before", "after"), twins)]
    assert not [case for case in cases if _is_red("delta", "fence", case)]
