"""One contract for all adapters: the same rows give the same keys, output bytes and error codes, whoever carries them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from tests.contract import cases
from tests.contract.adapters import ADAPTERS, local

pytestmark = pytest.mark.spark

_PANDAS_TAKES_NAN_FOR_NULL = {"null": "nan", "nan": "allow", "inf": "error"}  # where the two are one and the same


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
    assert twelfth[1:5] == ("[24.0, 2.0, 4.0, 6.0]", "'w'", "[{'index': 0, 'score': 24.0}, {'index': 3, 'score': 6.0}]", "'n12 ü'")
    assert ADAPTERS[adapter](spark, case, tmp_path) == expected


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_null_nan_infinity_and_range_meet_their_policy_alike(spark, adapter: str, tmp_path: Path) -> None:
    case = cases.policies(tmp_path / "model", _PANDAS_TAKES_NAN_FOR_NULL)
    expected = local(None, case, tmp_path)
    codes = {key: code for key, _, code in expected}
    assert [codes[i] for i in range(8)] == [None, None, None, *["SPS-ROW-INF"] * 2, *["SPS-ROW-RANGE"] * 2, None]
    assert ADAPTERS[adapter](spark, case, tmp_path) == expected


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_null_and_nan_are_told_apart_but_for_pandas(spark, adapter: str, tmp_path: Path) -> None:
    case = cases.policies(tmp_path / "model", {"null": "error", "nan": "allow", "inf": "allow"})
    found = {key: (outputs, code) for key, outputs, code in ADAPTERS[adapter](spark, case, tmp_path)}
    assert found[1] == (("None",), "SPS-ROW-NULL")
    assert found[2] == ((("None",), "SPS-ROW-NULL") if "pandas" in adapter else (("nan",), None))
    assert found[3] == (("inf",), None)


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
