"""A reduced precision: measured by a worker on the golden rows, judged by their tolerance, recorded, and kept."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pytest
from onnx import numpy_helper

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.claims import claim_run
from sparkscore.ledger.events import EventLog, read_events
from sparkscore.ledger.store import open_store
from sparkscore.run.batch import _planned
from sparkscore.run.environment import versions
from sparkscore.run.golden import Agreement, Deviation, deviation, golden_rows, scored_by_worker
from sparkscore.run.planning import assert_same, bound, make_plan
from sparkscore.run.records import record_plan
from sparkscore.run.summaries import summary_of
from sparkscore.runtime.providers import CUDA
from sparkscore.spark.carriers import RowsTask
from sparkscore.spark.schemas import spark_schema
from sparkscore.spark.udfs import rows_frame
from tests.run.conftest import WEIGHTS, write_rows

ROWS = pa.table(
    {name: pa.array(v, pa.float32()) for name, v in {"a": [1, 0, 3], "b": [2, 0, 0], "c": [4, 8, 0]}.items()}
)
ANSWERS = [0.5, 1.0, 1.5]


@pytest.fixture
def on_gpu(pipeline, tmp_path: Path):
    write_rows(tmp_path / "in", 10, 1)
    (tmp_path / "golden.json").write_text(json.dumps({"rows": ROWS.to_pylist(), "outputs": {"score": ANSWERS}}))

    def made(**keys: Any):
        golden = str(tmp_path / "golden.json")
        return pipeline(model={"uri": str(tmp_path / "linear.onnx"), "device": "cuda", "golden": golden} | keys)

    return made


def _rounded(path: Path) -> Path:
    """Write the linear model with weights that are a hundredth too large."""
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHTS * np.float32(1.01), "w"))
    onnx.save(model, path.with_name("rounded.onnx"))
    return path.with_name("rounded.onnx")


def _golden_plan(spark: Any, job: Any) -> Any:
    return replace(bound(spark, job.spec).scoring, keep=(), keys=())


def _tf32_on_a_cpu(spark: Any, job: Any) -> Any:
    """Bind a pipeline so that a worker scores its golden rows, and has the device: a CPU takes no notice of TF32."""
    found = bound(spark, job.spec)
    plan = replace(found.scoring, session=replace(found.scoring.session, precision="tf32"))
    return replace(found, binding=replace(found.binding, plan=plan))


def _pid_of(batches: Any) -> Any:
    for rows in batches:
        yield pa.RecordBatch.from_pydict({"pid": pa.array([os.getpid()] * len(rows), pa.int64())})


# -- the difference ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "exact", "found"),
    [
        ([1.0, 2.0], [1.0, 2.0], Deviation(0.0, 0.0, 0)),
        ([1.25, 2.25], [1.0, 2.0], Deviation(0.25, 0.25, 0)),
        ([1.0, 2.5], [0.5, 3.0], Deviation(0.5, 1.0, 0)),
        ([0.5], [0.0], Deviation(0.5, 0.0, 0)),
        ([float("nan"), 1.0], [float("nan"), float("inf")], Deviation(0.0, 0.0, 1)),
        ([None], [1.0], Deviation(0.0, 0.0, 1)),
        (["a", "b"], ["a", "c"], Deviation(0.0, 0.0, 1)),
        ([[1.0, 2.0]], [[1.0, 4.0]], Deviation(2.0, 0.5, 0)),
    ],
)
def test_a_deviation_is_the_largest_difference_and_counts_what_has_none(got: Any, exact: Any, found: Deviation) -> None:
    assert deviation(pa.table({"y": got}), pa.table({"y": exact})) == found


# -- where it is measured ------------------------------------------------------------------------------


@pytest.mark.spark
def test_a_task_scores_the_rows_that_it_brings_along_outside_the_driver(spark) -> None:
    result = spark_schema(pa.schema([("pid", pa.int64())]))
    pids = rows_frame(spark, RowsTask(ROWS, _pid_of), result).toArrow()["pid"].to_pylist()
    assert len(pids) == 3
    assert len(set(pids) - {os.getpid()}) == 1


@pytest.mark.spark
def test_two_plans_whose_answers_differ_are_so_far_apart(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    exact = scored_by_worker(spark, _golden_plan(spark, pipeline()), ROWS)
    other = pipeline(model={"uri": str(_rounded(tmp_path / "linear.onnx"))})
    got = scored_by_worker(spark, _golden_plan(spark, other), ROWS)
    assert exact["score"].to_pylist() == ANSWERS
    found = deviation(got, exact)
    assert found.absolute == pytest.approx(0.015, rel=1e-4)
    assert (found.relative, found.unequal) == (pytest.approx(0.01, rel=1e-3), 0)


@pytest.mark.spark
def test_the_worker_s_answers_are_judged_by_the_golden_file_and_held_against_its_cpu(
    spark, on_gpu, tmp_path: Path
) -> None:
    assert golden_rows(spark, _tf32_on_a_cpu(spark, on_gpu(device="cpu"))) == Agreement(3, 0.0, Deviation(0.0, 0.0, 0))
    off = on_gpu(device="cpu", uri=str(_rounded(tmp_path / "linear.onnx")))
    with pytest.raises(SparkscoreError, match=r"score = 1.5 for row 2. Got 1.51.*3 of 3 rows differ") as caught:
        golden_rows(spark, _tf32_on_a_cpu(spark, off))
    assert (caught.value.code, caught.value.exit_code) == ("SPS-MODEL-GOLDEN", 5)


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has a CUDA provider")
def test_the_worker_that_has_not_the_device_ends_it_and_the_driver_s_cpu_does_not_stand_in(spark, on_gpu) -> None:
    assert golden_rows(spark, bound(spark, on_gpu().spec)) == Agreement(3, 0.0)
    with pytest.raises(SparkscoreError, match=r"\[SPS-ENV-PROVIDER\]"):
        golden_rows(spark, bound(spark, on_gpu(precision="tf32").spec))


# -- what is kept of it --------------------------------------------------------------------------------


@pytest.mark.spark
def test_a_plan_holds_its_precision_and_refuses_another(spark, on_gpu) -> None:
    tf32, as_is = on_gpu(precision="tf32").spec, on_gpu().spec
    plan = make_plan(spark, bound(spark, tf32), "r")
    assert plan.header["precision"] == "tf32"
    assert replace(plan, header={**plan.header, "precision": "as_is"}).sha256 != plan.sha256
    assert_same(tf32, plan)
    with pytest.raises(SparkscoreError, match="SPS-RUN-CHANGED"):
        assert_same(as_is, plan)


@pytest.mark.spark
def test_tensorrt_as_is_warns_of_its_own_tf32(spark, on_gpu) -> None:
    said = [bound(spark, on_gpu(device="tensorrt", precision=p).spec).binding.warnings for p in ("as_is", "tf32")]
    assert ["NVIDIA_TF32_OVERRIDE=0" in text for text in said[0]] == [True]
    assert said[1] == ()


@pytest.mark.spark
def test_a_run_records_how_its_golden_rows_came_out(spark, on_gpu, tmp_path: Path) -> None:
    spec = on_gpu(device="cpu").spec
    store = open_store(spec.ledger)
    plan, _ = _planned(spark, spec, store, "r", print)
    assert plan.header["golden"] == {"rows": 3, "worst": 0.0, "deviation": None}
    measured = {**plan.header["golden"], "deviation": {"absolute": 0.25, "relative": 0.5, "unequal": 1}}
    plan = replace(plan, header={**plan.header, "precision": "tf32", "golden": measured})
    with claim_run(store, "r", say=print) as claim:
        events = EventLog(store, "r", claim.attempt)
        events.write("run_claimed", device="cuda", scan="fused", scan_reason="", **versions(spark))
        record_plan(events, plan)
    planned = next(e for e in read_events(store, "r") if e["event"] == "run_planned")
    assert (planned["precision"], planned["golden"]) == ("tf32", measured)
    summary = summary_of(store, plan)
    assert summary.to_json()["deviation"] == measured["deviation"]
    assert "tf32: at most 0.25 (0.5 of an answer) from float32 on a CPU; 1 other values differ" in str(summary)
