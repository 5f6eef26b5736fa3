"""Rows that depend on their neighbours are found out; those that do not pass within the tolerance of their type."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.scoring.proof import agree, distinct_rows, prove_independence
from sparkscore.scoring.scorer import open_scorer
from sparkscore.spec.scoring import InputPlan, Missing, Numbers, OutputPlan, ScoringPlan
from tests.scoring import graphs

X = {"x": np.array([[1.0, 2], [1, 2], [3, 4], [5, 6]], np.float32)}


def test_copies_of_a_row_are_left_out():
    assert distinct_rows(X, [0, 1, 2, 3]) == [0, 2, 3]
    assert distinct_rows(X, [0, 1, 2, 3], limit=2) == [0, 2]


def test_strings_are_told_apart_too():
    assert distinct_rows({"s": np.array(["a", "a", "b"], dtype=object)}, [0, 1, 2]) == [0, 2]


def test_rows_that_depend_on_nothing_else_pass():
    assert prove_independence(lambda f, t: [f["x"] * 2], X, [0, 2, 3], ["y"]) == 4


def test_a_row_that_feels_its_neighbours_is_refused_with_the_output_s_name():
    with pytest.raises(SparkscoreError, match="'y'") as caught:
        prove_independence(lambda f, t: [f["x"] - f["x"].mean(0)], X, [0, 2, 3], ["y"])
    assert caught.value.code == "SPS-MODEL-BATCH"


def test_a_fixed_batch_axis_is_not_advised_to_set_the_batch_size():
    def fix_for(fixed):
        with pytest.raises(SparkscoreError) as caught:
            prove_independence(lambda f, t: [f["x"] - f["x"].mean(0)], X, [0, 2, 3], ["y"], fixed_batch=fixed)
        return caught.value.fix

    assert fix_for(None).endswith("or set model.batch_size: 1.")
    assert fix_for(4).endswith("a batch axis of 1: this graph's is fixed at 4, whatever model.batch_size says.")


@pytest.mark.parametrize(
    "a, b, same",
    [
        (np.float32(1.0), np.float32(1.0005), True),
        (np.float32(1.0), np.float32(1.002), False),
        (np.float32(0.0), np.float32(9e-6), True),
        (np.float16(1.0), np.float16(1.008), True),
        (np.float32("nan"), np.float32("nan"), True),
        (np.float32("nan"), np.float32(1), False),
        (np.int64(3), np.int64(4), False),
        (np.array("a", dtype=object), np.array("a", dtype=object), True),
        (np.zeros(2), np.zeros(3), False),
    ],
)
def test_outputs_agree_within_the_tolerance_of_their_type(a, b, same):
    assert agree(a, b) is same


@pytest.mark.parametrize("size, n, same", [(2, 8192, 2000), (64, 8192, 2000), (None, 65_536, 9000)])
def test_each_call_is_looked_at_until_its_rows_differ(tmp_path, size, n, same):
    """The first rows are the same, and are encoded together with the others."""
    model = graphs.write(tmp_path, graphs.batch_mean())
    x = InputPlan("x", "float32", (2,), (Numbers(("a", "b"), Missing(nan="error")),))
    y = OutputPlan("y", "y", "float32", 0, index="[:, 0]")
    plan = ScoringPlan(model, (x,), (y,), (), prove_batch=True, batch_size=size)
    late = pa.array(np.maximum(np.arange(n) - same, 0), pa.float32())
    with pytest.raises(SparkscoreError) as caught:
        list(open_scorer(plan).score([pa.RecordBatch.from_pydict({"a": late, "b": late})]))
    assert caught.value.code == "SPS-MODEL-BATCH"
