"""Drivers of one run that start, stand still, wake and die in any order: rows are never twice, and none is lost."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sparkscore.errors import SparkscoreError
from sparkscore.run import attempt
from sparkscore.run.result import Summary
from tests.protocol.stand_ins import SINKS
from tests.protocol.test_crash_points import POINTS, wrong
from tests.protocol.world import Death, Driver, World

MOST_ALIVE = 3
NAMES = st.sampled_from(("write", *POINTS))

pytestmark = pytest.mark.slow


class Protocol(RuleBasedStateMachine):
    """One run, its world, and whoever drives it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.cleanup = ExitStack()
        self.cleanup.enter_context(self.world.patched())

    @initialize(line=st.sampled_from(list(SINKS)), units=st.integers(1, 4), proof_every_s=st.sampled_from([0.0, 30.0]))
    def begin(self, line: str, units: int, proof_every_s: float) -> None:
        self.world.line, self.world.units = line, units
        self.proof_every_s, attempt._PROOF_EVERY_S = attempt._PROOF_EVERY_S, proof_every_s

    @property
    def closed(self) -> bool:
        return bool(self.world.events("run_closed"))

    @property
    def alive(self) -> list[Driver]:
        return [driver for driver in self.world.drivers if not driver.gone]

    @precondition(lambda self: len(self.alive) < MOST_ALIVE)
    @rule(take_over=st.booleans())
    def start(self, take_over: bool) -> None:
        self.world.start(take_over=take_over)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), steps=st.integers(1, 12))
    def move(self, data: st.DataObject, steps: int) -> None:
        driver = data.draw(st.sampled_from(self.alive))
        left = count()
        driver.until(lambda _: next(left) >= steps)
        self._assert_fair_end(driver)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), name=NAMES, when=st.sampled_from(["before", "after"]))
    def move_to(self, data: st.DataObject, name: str, when: str) -> None:
        driver = data.draw(st.sampled_from(self.alive))
        driver.until(lambda at: (at.name, at.when) == (name, when))
        self._assert_fair_end(driver)

    @precondition(lambda self: 0 < len(self.alive) < MOST_ALIVE)
    @rule(data=st.data(), name=NAMES, take_over=st.booleans())
    def pass_over(self, data: st.DataObject, name: str, take_over: bool) -> None:
        """A driver stands still while another is started and comes to a point; then it wakes."""
        sleeper = data.draw(st.sampled_from(self.alive))
        sleeper.still = True
        successor = self.world.start(take_over=take_over)
        successor.until(lambda at: (at.name, at.when) == (name, "before"))
        self._assert_fair_end(successor)
        sleeper.still = False

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.alive)).kill()

    @precondition(
        lambda self: (
            not self.alive and self.world.line == "delta" and self.world.log and not self.world.events("run_closed")
        )
    )
    @rule(data=st.data())
    def lose_a_commit(self, data: st.DataObject) -> None:
        """Another writer's entry stands where a version was, as on a store without put-if-absent."""
        version = data.draw(st.integers(0, len(self.world.log) - 1))
        self.world.log[version] = replace(self.world.log[version], app_id=None, user_metadata="", rows=())

    @invariant()
    def no_row_is_twice(self) -> None:
        keys = Counter(row.key for row in self.world.rows())
        assert not [key for key, times in keys.items() if times > 1]

    @invariant()
    def a_run_that_closed_is_whole(self) -> None:
        if self.closed:
            assert not wrong(self.world)

    def teardown(self) -> None:
        try:
            for driver in self.alive:
                driver.end()
                self._assert_fair_end(driver)
            assert isinstance(self.world.start(take_over=True).end(), Summary)
            assert not wrong(self.world)
        finally:
            for driver in self.alive:
                driver.kill()
            attempt._PROOF_EVERY_S = self.proof_every_s
            self.cleanup.close()

    def _assert_fair_end(self, driver: Driver) -> None:
        if driver.gone and not isinstance(driver.outcome, (Summary, Death)):
            assert isinstance(driver.outcome, SparkscoreError), driver.outcome
            assert driver.outcome.code == "SPS-FENCED", driver.outcome


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
