"""What only a GPU can show: the provider that is active, its number formats, its memory, and a context that is lost."""

from __future__ import annotations

import ctypes
import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import helper

from sparkscore.run.golden import golden_rows
from sparkscore.run.planning import bound
from sparkscore.runtime.page_locked import loaded_runtime
from sparkscore.runtime.providers import CUDA
from sparkscore.runtime.session import Session
from sparkscore.spec.pipeline import load_pipeline
from sparkscore.spec.scoring import ErrorPlan, InputPlan, Numbers, OutputPlan, ScoringPlan, SessionPlan, Tensor
from tests.scoring import graphs
from tests.scoring.test_guard import PLANT, N, children, guarded, perilous, plant
from tests.scoring.test_scorer import FLAT_Y, batch, errors_of, run

__all__ = ["plant"]  # a fixture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="this ONNX Runtime has no CUDA provider"),
]

ON_GPU = SessionPlan(device="cuda")
POISON = 20
# A kernel of the process that writes outside its memory: from then on CUDA refuses this process every call.
LOSES_CONTEXT = """
    if -6.0 in marks:
        import cupy
        try:
            cupy.RawKernel('extern "C" __global__ void bad() { *(volatile int*)16 = 1; }', "bad")((1,), (1,), ())
            cupy.cuda.runtime.deviceSynchronize()
        except Exception:
            pass
"""
GPU_PLANT = PLANT.replace("    return call(", f"{LOSES_CONTEXT}    return call(")
KINDS = {
    "SIGSEGV": (-1.0, "SPS-ROW-CRASH", "P4", "signal 11"),
    "SIGKILL": (-2.0, "SPS-ROW-CRASH", "P6", "signal 9"),
    "silent exit": (-4.0, "SPS-ROW-CRASH", "P6", "exit code 0"),
    "hang": (-5.0, "SPS-ROW-TIMEOUT", "P8", "CallTimeout"),
    "lost context": (-6.0, "SPS-ROW-CRASH", "G2", "Fail"),
}


def on_gpu(plan, **changes):
    return replace(plan, session=replace(ON_GPU, **changes))


def wide(width):
    """y[n] = the largest of `width` squares of x: as many numbers a row as the GPU must hold, twice."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
        helper.make_node("Expand", ["column", "wide"], ["spread"]),
        helper.make_node("Mul", ["spread", "spread"], ["squares"]),
        helper.make_node("ReduceMax", ["squares"], ["y"], axes=[1], keepdims=0),
    ]
    constants = [("last", np.int64([1])), ("wide", np.int64([1, width]))]
    return graphs.graph(nodes, [("x", graphs.FLOAT, ["n"])], [("y", graphs.FLOAT, ["n"])], constants)


def wide_plan(folder, width, guard):
    ref = graphs.write(folder / "wide", wide(width))
    session = replace(ON_GPU, providers=(("cuda", (("gpu_mem_limit", str(2**30)),)),))
    plan = ScoringPlan(ref, (InputPlan("x", "float32", (), (Numbers(("a",)),)),), FLAT_Y, ("id",), session=session)
    return replace(plan, on_error=ErrorPlan(guard=guard))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_takes_its_process_or_its_gpu_along_costs_that_row(kind, tmp_path, plant):
    value, code, class_id, error_type = KINDS[kind]
    plan, clean = perilous(tmp_path, {})
    undisturbed, here = run(on_gpu(plan), clean)
    assert here.session.provider == CUDA
    _, poisoned = perilous(tmp_path, {POISON: ("x", [value, 0.0])})
    plant(GPU_PLANT)
    before = children()
    table, scorer = run(on_gpu(guarded(plan, batch_timeout_s=5.0, grace_s=0.1)), poisoned)
    assert scorer.session.provider == CUDA
    found = {row: (e["error_code"], e["error_class"], e["error_type"]) for row, e in errors_of(table).items()}
    assert found == {POISON: (code, class_id, error_type)}
    good = np.setdiff1d(np.arange(N), POISON)
    assert table["y"].take(good).to_numpy().tobytes() == undisturbed["y"].take(good).to_numpy().tobytes()
    assert children() <= before
    again, _ = run(on_gpu(plan), clean, scorer=here)  # this process's own context is as it was
    assert again["y"].equals(undisturbed["y"])


def test_without_a_guard_a_lost_context_is_an_error_that_ends_the_worker(tmp_path, plant):
    plan, poisoned = perilous(tmp_path, {POISON: ("x", [-6.0, 0.0])})
    (tmp_path / "plan").write_bytes(pickle.dumps((on_gpu(plan), poisoned)))
    plant(GPU_PLANT)
    text = "import pickle, sys; from tests.scoring.test_scorer import run; run(*pickle.load(open(sys.argv[1], 'rb')))"
    ended = subprocess.run([sys.executable, "-c", text, str(tmp_path / "plan")], capture_output=True, text=True)
    assert ended.returncode
    assert "[SPS-CLUSTER-WORKER] Expected a usable GPU context." in ended.stderr


@pytest.mark.parametrize("guard", ["off", "always"])
def test_a_batch_too_large_for_the_gpu_is_halved_until_it_fits(guard, tmp_path):
    plan = wide_plan(tmp_path, 2**20, guard)
    table, scorer = run(plan, batch(id=pa.array(range(1000), pa.int64()), a=pa.array(range(1000), pa.float32())))
    assert not errors_of(table)
    assert table["y"].to_pylist() == [float(row) ** 2 for row in range(1000)]
    assert scorer.counts.oom_splits > 0


@pytest.mark.parametrize("guard", ["off", "always"])
def test_a_row_too_large_for_the_gpu_is_named_so(guard, tmp_path):
    plan = wide_plan(tmp_path, 2**29, guard)
    table, _ = run(plan, batch(id=pa.array([7], pa.int64()), a=pa.array([1.0], pa.float32())))
    assert {row: (e["error_code"], e["error_class"]) for row, e in errors_of(table).items()} == {
        7: ("SPS-ROW-OOM", "G1")
    }


def product():
    """Rows, the bytes of y = x @ w, and the rows' answers in float64."""
    random = np.random.default_rng(7)
    rows, weights = random.random((256, 1024), np.float32), random.random((1024, 64), np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = graphs.graph([node], [("x", graphs.FLOAT, ["n", 1024])], [("y", graphs.FLOAT, ["n", 64])], [("w", weights)])
    return rows, model, rows.astype(np.float64) @ weights.astype(np.float64)


def test_numbers_are_those_of_float32_and_tf32_only_when_asked_for(tmp_path):
    rows, model, exact = product()
    inputs = (InputPlan("x", "float32", (1024,), (Tensor(("x",), shape=(1024,)),)),)
    ref = graphs.write(tmp_path / "product", model)
    plan = ScoringPlan(ref, inputs, (OutputPlan("y", "y", "float32", 1),), ("id",))
    data = batch(id=pa.array(range(256), pa.int64()), x=pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 1024))
    deviation = {}
    for precision in ("as_is", "tf32"):
        table, _ = run(on_gpu(plan, precision=precision), data)
        deviation[precision] = float(np.max(np.abs(np.array(table["y"].to_pylist()) - exact) / exact))
    assert deviation["as_is"] < 1e-5 < deviation["tf32"]


def test_packed_columns_lie_where_the_gpu_reads_them_by_itself(tmp_path, monkeypatch):
    ref = graphs.write(tmp_path / "product", product()[1])
    names = tuple(f"c{i:04d}" for i in range(1024))
    rows = product()[0]
    data = batch(id=pa.array(range(256), pa.int64()), **{n: pa.array(rows[:, i]) for i, n in enumerate(names)})
    inputs = (InputPlan("x", "float32", (1024,), (Numbers(names),)),)
    plan = on_gpu(ScoringPlan(ref, inputs, (OutputPlan("y", "y", "float32", 1),), ("id",)))
    fed, run_session = [], Session.run

    def spied(self, feeds, *rest):
        fed.extend(array.ctypes.data for array in feeds.values() if len(array) > 2)  # without the warm-up and the proof
        return run_session(self, feeds, *rest)

    monkeypatch.setattr(Session, "run", spied)
    locked, _ = run(plan, data)
    runtime, flags = loaded_runtime(), ctypes.c_uint()
    assert fed
    assert {runtime.cudaHostGetFlags(ctypes.byref(flags), ctypes.c_void_p(at)) for at in fed} == {0}
    monkeypatch.setattr(Session, "empty", lambda self, shape, dtype: np.empty(shape, dtype))
    assert run(plan, data)[0].equals(locked)


@pytest.mark.spark
def test_a_worker_measures_how_far_tf32_is_from_float32(spark, tmp_path):
    rows, model, exact = product()
    (tmp_path / "product.onnx").write_bytes(model)
    (tmp_path / "in").mkdir()
    pq.write_table(
        pa.table({"id": [1], "x": pa.array([rows[0]], pa.list_(pa.float32()))}), tmp_path / "in" / "1.parquet"
    )
    known = {"rows": [{"x": row.tolist()} for row in rows], "outputs": {"y": exact.tolist()}, "rtol": 1e-2}
    (tmp_path / "golden.json").write_text(json.dumps(known))
    document = {
        "version": 1,
        "name": "product",
        "source": {"format": "parquet", "location": str(tmp_path / "in")},
        "model": {"uri": "product.onnx", "device": "cuda", "precision": "tf32", "golden": "golden.json"},
        "inputs": {"x": "x"},
        "sink": {"format": "delta", "location": str(tmp_path / "out")},
    }
    found = golden_rows(spark, bound(spark, load_pipeline(document, folder=tmp_path)))
    assert found.rows == len(rows)
    assert 1e-5 < found.deviation.relative < 1e-2
    assert found.deviation.absolute > 0
