"""The error budget at its edges: broken means greater than, and never judged on too few rows."""

from __future__ import annotations

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.run.budget import Totals, assert_within, task_limit
from sparkscore.spec.pipeline import OnError


def _judge(ok: int, bad: int, **knobs: object) -> None:
    assert_within(Totals(ok, bad), OnError.model_validate(knobs), "r1")


def test_exactly_the_fraction_passes_and_one_more_row_breaks() -> None:
    _judge(9_900, 100)
    with pytest.raises(SparkscoreError, match=r"SPS-BUDGET.*101 of 10001") as caught:
        _judge(9_900, 101)
    assert caught.value.exit_code == 6


def test_the_fraction_is_the_number_as_it_is_written_not_as_floats_multiply() -> None:
    _judge(1_065, 435, max_fraction=0.29)  # 0.29 * 1500 is 434.99999999999994
    with pytest.raises(SparkscoreError, match="SPS-BUDGET"):
        _judge(1_065, 436, max_fraction=0.29)
    assert task_limit(Totals(), OnError.model_validate({"max_fraction": 0.29}), 1_500) == 435


def test_fractions_are_not_judged_below_the_sample() -> None:
    _judge(0, 999)
    with pytest.raises(SparkscoreError, match="SPS-BUDGET"):
        _judge(0, 1_000)


def test_the_absolute_cap_holds_at_any_size() -> None:
    _judge(1, 5, max_rows=5)
    with pytest.raises(SparkscoreError, match="max_rows"):
        _judge(1, 6, max_rows=5)


def test_filtered_rows_do_not_thin_out_the_fraction() -> None:
    with pytest.raises(SparkscoreError, match="SPS-BUDGET"):
        assert_within(Totals(980, 20, 1_000_000), OnError(), "r1")


def test_a_task_stops_early_only_when_the_run_is_certainly_lost() -> None:
    assert task_limit(Totals(0, 30), OnError(), 100_000) == 970
    assert task_limit(Totals(0, 30), OnError(), None) is None
    assert task_limit(Totals(0, 30), OnError.model_validate({"max_rows": 40}), None) == 10
    assert task_limit(Totals(), OnError(), 500) is None
