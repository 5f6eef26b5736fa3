"""The demo's model: small, plain, honest about missing weather, and the same bits in every batch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from sparkscore import demo
from sparkscore.spec.pipeline import load_pipeline

MODEL = demo.conf() / "models" / "flights"
GOLDEN = json.loads((MODEL / "golden.json").read_text())
NUMBERS = ("dep_delay", "hour", "distance", "temp", "visib", "wind_speed", "precip")
CARRIERS = (MODEL / "carriers.txt").read_text().split()


def _session(threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(MODEL / "model.onnx"), options, providers=["CPUExecutionProvider"])


def _feeds(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    numbers = [[np.nan if row[name] is None else row[name] for name in NUMBERS] for row in rows]
    return {
        "numbers": np.array(numbers, np.float32),
        "carrier": np.array([CARRIERS.index(row["carrier"]) for row in rows]),
        "origin": np.array([["EWR", "JFK", "LGA"].index(row["origin"]) for row in rows]),
    }


def _random_feeds(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    low, high = [-30, 0, 80, 10, 0, 0, 0], [300, 24, 5000, 100, 10, 40, 1]
    numbers = rng.uniform(low, high, (n, 7)).astype(np.float32)
    numbers[rng.random((n, 7)) < 0.1] = np.nan
    return {"numbers": numbers, "carrier": rng.integers(0, 16, n), "origin": rng.integers(0, 3, n)}


def _train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flights_train", MODEL / "train.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_small_and_old_enough_for_every_supported_runtime() -> None:
    proto = onnx.load(MODEL / "model.onnx")
    assert (MODEL / "model.onnx").stat().st_size < 300_000
    assert proto.ir_version <= 10
    assert {i.domain: i.version for i in proto.opset_import} == {"": 17, "ai.onnx.ml": 3}


def test_golden_rows_give_the_answers_of_scikit_learn() -> None:
    p = _session().run(["probabilities"], _feeds(GOLDEN["rows"]))[0]
    np.testing.assert_allclose(p[:, 1], GOLDEN["outputs"]["p_late"], rtol=GOLDEN["rtol"], atol=GOLDEN["atol"])
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)


def test_golden_rows_hold_flights_with_no_weather_with_some_and_with_all_of_it() -> None:
    missing = {sum(value is None for value in row.values()) for row in GOLDEN["rows"]}
    assert missing == {0, 1, 4}
    assert len(GOLDEN["rows"]) == len(GOLDEN["outputs"]["p_late"]) >= 8


@pytest.mark.parametrize("batch_rows", [1, 3, 17, 128, 129, 1000])
def test_a_row_scores_to_the_same_bits_whatever_its_batch(batch_rows: int) -> None:
    feeds, session = _random_feeds(2000), _session()
    whole = session.run(["probabilities"], feeds)[0]
    starts = range(0, 2000, batch_rows)
    parts = [{name: x[i : i + batch_rows] for name, x in feeds.items()} for i in starts]
    cut = np.concatenate([session.run(["probabilities"], part)[0] for part in parts])
    assert np.array_equal(whole, cut)


def test_the_label_says_whether_late_is_the_likelier() -> None:
    label, p = _session().run(["label", "probabilities"], _random_feeds(500))
    assert np.array_equal(label, p[:, 1] > p[:, 0])
    assert 0 < label.mean() < 1


@pytest.mark.parametrize("threshold", [0.1, 1e-40, -3.3, 16_777_217.0, 5.0, np.inf])
def test_a_threshold_rounded_to_float32_splits_float32_values_as_before(threshold: float) -> None:
    rounded = np.float32(_train().floor_float32(threshold))
    near = [np.float32(threshold), *(np.nextafter(np.float32(threshold), np.float32(s)) for s in (-np.inf, np.inf))]
    assert [x <= rounded for x in near] == [float(x) <= threshold for x in near]


@pytest.mark.slow
def test_the_script_trains_a_model_that_gives_the_golden_answers(tmp_path: Path) -> None:
    script, data = MODEL / "train.py", Path(__file__).parents[2] / ".data"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(data.parent)}
    subprocess.run([sys.executable, script, data, tmp_path], env=env, check=True, capture_output=True)
    again = json.loads((tmp_path / "golden.json").read_text())
    assert again["rows"] == GOLDEN["rows"]
    np.testing.assert_allclose(again["outputs"]["p_late"], GOLDEN["outputs"]["p_late"], rtol=1e-4, atol=1e-5)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))


def test_the_pipeline_file_leaves_room_for_the_cancelled_flights_and_little_more() -> None:
    pipeline = load_pipeline(demo.conf() / "pipelines" / "flights.yaml", {"dir": "/d"})
    assert 8_255 / demo.FLIGHTS < pipeline.on_error.max_fraction == 0.05
    assert pipeline.keys == ("flight_id",)
    assert pipeline.ledger == "/d/ledger"
