"""Golden rows: agreement within a tolerance, the worst row named, and a file that cannot be used says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from tests.run.conftest import write_rows

pytestmark = pytest.mark.spark

ROWS = [{"a": 1.0, "b": 2.0, "c": 4.0}, {"a": 0.0, "b": 0.0, "c": 8.0}, {"a": 3.0, "b": 0.0, "c": 0.0}]
SCORES = [0.5, 1.0, 1.5]


@pytest.fixture
def check(spark, pipeline, tmp_path: Path):
    write_rows(tmp_path / "in", 10, 1)

    def with_golden(golden: Any, **keys: Any):
        file = tmp_path / "golden.json"
        file.write_text(golden if isinstance(golden, str) else json.dumps(golden))
        model = {"uri": str(tmp_path / "linear.onnx"), "golden": str(file)}
        return pipeline(model=model, **keys).check(spark)

    return with_golden


def _refusal(check, golden: Any, **keys: Any) -> str:
    with pytest.raises(SparkscoreError) as raised:
        check(golden, **keys)
    assert raised.value.code == "SPS-MODEL-GOLDEN"
    assert raised.value.exit_code == 5
    return str(raised.value)


def test_golden_rows_that_agree_are_counted(check) -> None:
    assert check({"rows": ROWS, "outputs": {"score": SCORES}}).golden_rows == 3


def test_a_pipeline_without_golden_rows_says_none(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    assert pipeline().check(spark).golden_rows is None


def test_the_row_that_is_furthest_off_is_named_with_its_difference(check) -> None:
    text = _refusal(check, {"rows": ROWS, "outputs": {"score": [0.5, 1.001, 1.7]}})
    assert "score = 1.7 for row 2" in text
    assert "1.5 (difference 0.2" in text
    assert "2 of 3 rows differ" in text


def test_a_difference_within_the_tolerance_passes_and_beyond_it_does_not(check) -> None:
    near = {"rows": ROWS, "outputs": {"score": [0.5, 1.01, 1.5]}}
    assert check({**near, "atol": 0.02}).golden_rows == 3
    assert check({**near, "rtol": 0.02}).golden_rows == 3
    _refusal(check, {**near, "rtol": 0.001})


def test_a_golden_row_that_is_refused_is_told_with_its_code(check) -> None:
    text = _refusal(check, {"rows": [{"a": 1.0, "b": 2.0}], "outputs": {"score": [0.5]}})
    assert "row 0" in text
    assert "SPS-ROW-NULL" in text


def test_whole_outputs_are_compared_value_by_value(check) -> None:
    outputs = {"whole": {"output": "y", "encode": "nested"}}
    assert check({"rows": ROWS, "outputs": {"whole": SCORES}}, outputs=outputs).golden_rows == 3


@pytest.mark.parametrize(
    ("golden", "why"),
    [
        ("{", "JSONDecodeError"),
        ({"rows": ROWS}, "outputs"),
        ({"rows": [], "outputs": {"score": []}}, "0 rows"),
        ({"rows": ROWS, "outputs": {"score": [0.5]}}, "3 rows and {'score': 1}"),
        ({"rows": ROWS, "outputs": {"nosuch": SCORES}}, "nosuch"),
        ({"rows": [{"z": 1}], "outputs": {"score": [1]}}, "columns that the model is not fed with: z"),
        ({"rows": [{"a": "one"}], "outputs": {"score": [1]}}, "one"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(check, golden: Any, why: str) -> None:
    assert why in _refusal(check, golden)


def test_a_golden_file_that_is_not_there(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    with pytest.raises(SparkscoreError) as raised:
        pipeline(model={"uri": str(tmp_path / "linear.onnx"), "golden": str(tmp_path / "no.json")}).check(spark)
    assert raised.value.code == "SPS-MODEL-GOLDEN"
