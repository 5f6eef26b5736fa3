"""One contract for all adapters: the same rows give the same keys, output bytes and error codes from each."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from tests.contract import cases
from tests.contract.adapters import ADAPTERS, local

pytestmark = pytest.mark.spark


@pytest.mark.place
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_kind_of_column_and_output_is_scored_alike(spark, adapter: str, tmp_path: Path) -> None:
    case = cases.everything(tmp_path / "model")
    expected = local(None, case, tmp_path)
    assert {key: code for key, _, code in expected if code} == {
        3: "SPS-ROW-NULL",
        4: "SPS-ROW-RANGE",
        5: "SPS-ROW-CATEGORY",
        6: "SPS-ROW-NULL",
        7: "SPS-ROW-SHAPE",
        8: "SPS-ROW-SHAPE",
        9: "SPS-ROW-NULL",
        10: "SPS-ROW-NULL",
        11: "SPS-ROW-NULL",
    }
    twelfth = next(outputs for key, outputs, _ in expected if key == 12)
    assert twelfth[0] == repr(12 / 8 + 36 + 2 + 36 + 3 + 12)
    best = [{"index": 0, "score": 24.0}, {"index": 3, "score": 6.0}]
    assert twelfth[1:5] == ("[24.0, 2.0, 4.0, 6.0]", "'w'", repr(best), "'n12 ü'")
    assert ADAPTERS[adapter](spark, case, tmp_path) == expected


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_null_nan_infinity_and_range_meet_their_policy_alike(spark, adapter: str, tmp_path: Path) -> None:
    case = cases.policies(tmp_path / "model", {"null": "error", "nan": "allow", "inf": "error"})
    expected = {key: (outputs, code) for key, outputs, code in local(None, case, tmp_path)}
    codes = [None, "SPS-ROW-NULL", None, "SPS-ROW-INF", "SPS-ROW-INF", "SPS-ROW-RANGE", "SPS-ROW-RANGE", None]
    assert [expected[i][1] for i in range(8)] == codes
    assert expected[2] == (("nan",), None)
    assert expected[7] == ((repr(3.0 + 2 * 0.25 + 3 * 9 + 0.5),), None)
    if "pandas" in adapter:  # which knows no null beside NaN: documented in `score_udf`
        expected[2] = (("None",), "SPS-ROW-NULL")
    assert ADAPTERS[adapter](spark, case, tmp_path) == Counter((k, *v) for k, v in expected.items())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_many_arrow_batches_are_scored_alike(spark, adapter: str, tmp_path: Path) -> None:
    case = cases.numbers(tmp_path / "model", 25_000)
    found = ADAPTERS[adapter](spark, case, tmp_path)
    assert sum(found.values()) == len(found) == 25_000
    assert found == local(None, case, tmp_path)
    some = {key: float(outputs[0]) for key, outputs, _ in found if key % 5_000 == 1}
    for key, score in some.items():
        by_hand = sum(w * ((key * (k + 3)) % 101 / 7) for k, w in enumerate((1, 2, 3))) + 0.5
        assert math.isclose(score, by_hand, rel_tol=1e-5)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_one_row_are_scored_alike(spark, adapter: str, rows: int, tmp_path: Path) -> None:
    case = cases.numbers(tmp_path / "model", rows)
    expected = Counter({(0, ("0.5",), None): 1}) if rows else Counter()
    assert ADAPTERS[adapter](spark, case, tmp_path) == expected == local(None, case, tmp_path)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_rows_that_are_all_bad_are_all_there_with_their_codes(spark, adapter: str, tmp_path: Path) -> None:
    case = cases.numbers(tmp_path / "model", 50, inputs={"x": [{"columns": ["a", "b", "c"], "range": [99, 100]}]})
    expected = Counter({(i, ("None",), "SPS-ROW-RANGE"): 1 for i in range(50)})
    assert ADAPTERS[adapter](spark, case, tmp_path) == expected == local(None, case, tmp_path)
