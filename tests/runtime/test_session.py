"""Sessions: proven providers, the cache, timeouts that end real loops, and load errors with names."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import loading
from sparkscore.runtime.loading import TensorInfo, read_signature
from sparkscore.runtime.memory import gpu_memory_bytes
from sparkscore.runtime.providers import CPU, CUDA, TENSORRT, installed_distributions, only_distribution, providers_for
from sparkscore.runtime.session import clear_sessions, open_session
from sparkscore.runtime.watchdog import CallTimeout, Watch, Watchdog, watchdog
from sparkscore.spec.scoring import SessionPlan
from tests.scoring import graphs

without_cuda = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
GPU_WHEEL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture(autouse=True)
def _no_sessions_left():
    clear_sessions()
    yield
    clear_sessions()


def opened(folder, model, plan=None):
    ref = graphs.write(folder, model)
    return open_session(ref, plan or SessionPlan(), folder)


def code_of(call, *args, **kwargs):
    with pytest.raises(SparkscoreError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def test_a_session_scores_and_says_what_it_runs_on(tmp_path):
    session = opened(tmp_path, graphs.linear())
    (y,) = session.run({"x": np.array([[1, 2]], np.float32)}, ["y"])
    assert y.tolist() == [[5.5]]
    assert session.provider == CPU
    assert session.versions["onnxruntime"] == ort.__version__
    assert session.signature.inputs == (TensorInfo("x", "float32", (None, 2)),)
    assert session.signature.outputs == (TensorInfo("y", "float32", (None, 1)),)


def test_only_the_asked_for_outputs_are_computed(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])]
    model = graphs.graph(
        nodes,
        [("x", graphs.FLOAT, ["n"])],
        [("a", graphs.FLOAT, ["n"]), ("b", graphs.FLOAT, ["n"])],
    )
    (b,) = opened(tmp_path, model).run({"x": np.float32([3])}, ["b"])
    assert b.tolist() == [-3]


def test_the_warm_up_input_of_zeros_is_remembered_as_good_only_when_it_was_scored(tmp_path):
    good = opened(tmp_path / "good", graphs.lookup())
    assert good.warm_up_ok
    assert good.warm_up["i"].tolist() == [0]
    assert not opened(tmp_path / "bad", graphs.always_raising()).warm_up_ok


def test_fixed_axes_and_strings_are_warmed_up_in_their_own_shape(tmp_path):
    assert opened(tmp_path / "a", graphs.linear(batch=4)).warm_up["x"].shape == (4, 2)
    assert opened(tmp_path / "b", graphs.text_length()).warm_up["s"].tolist() == [""]


@pytest.mark.parametrize(
    "onnx_type, named",
    [(TensorProto.BFLOAT16, "tensor(bfloat16)"), (TensorProto.FLOAT8E4M3FN, "tensor(float8e4m3fn)")],
)
def test_a_type_that_cannot_be_scored_is_shown_as_it_is(tmp_path, onnx_type, named):
    node = helper.make_node("Identity", ["x"], ["y"])
    model = graphs.graph([node], [("x", onnx_type, ["n"])], [("y", onnx_type, ["n"])], opset=19)
    signature = read_signature(tmp_path, graphs.write(tmp_path, model).main)
    assert signature.inputs[0].dtype == named


def test_a_sequence_output_is_shown_as_it_is(tmp_path):
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    g = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", graphs.FLOAT, ["n"])],
        [helper.make_tensor_sequence_value_info("y", graphs.FLOAT, None)],
    )
    model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    assert read_signature(tmp_path, graphs.write(tmp_path, model).main).outputs[0].dtype == "seq(tensor(float))"


# -- the cache -------------------------------------------------------------------------------------------


def test_the_same_bytes_and_settings_give_the_same_session_and_other_settings_another(tmp_path):
    ref = graphs.write(tmp_path, graphs.linear())
    first = open_session(ref, SessionPlan(), tmp_path)
    assert open_session(ref, SessionPlan(), tmp_path) is first
    assert open_session(ref, SessionPlan(threads=2), tmp_path) is not first
    clear_sessions()
    assert open_session(ref, SessionPlan(), tmp_path) is not first


def test_the_cache_lets_go_of_the_least_recently_used_session_when_its_bytes_are_spent(tmp_path, monkeypatch):
    refs = [graphs.write(tmp_path / str(i), graphs.linear(width=2 + i)) for i in range(3)]
    folders = [tmp_path / str(i) for i in range(3)]
    monkeypatch.setenv("SPARKSCORE_SESSION_CACHE_BYTES", str(sum(f.size_bytes for r in refs[:2] for f in r.files)))
    a, b = (open_session(refs[i], SessionPlan(), folders[i]) for i in (0, 1))
    assert open_session(refs[0], SessionPlan(), folders[0]) is a
    open_session(refs[2], SessionPlan(), folders[2])
    assert open_session(refs[0], SessionPlan(), folders[0]) is not b
    assert open_session(refs[1], SessionPlan(), folders[1]) is not b


def test_a_model_larger_than_the_cache_is_still_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSCORE_SESSION_CACHE_BYTES", "1")
    assert opened(tmp_path, graphs.linear()).provider == CPU


def test_a_cache_size_that_is_no_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSCORE_SESSION_CACHE_BYTES", "4GB")
    assert code_of(opened, tmp_path, graphs.linear()) == "SPS-SPEC-VALUE"


def test_threads_that_want_one_model_load_it_once(tmp_path, caplog):
    ref, found = graphs.write(tmp_path, graphs.linear()), []
    workers = [
        threading.Thread(target=lambda: found.append(open_session(ref, SessionPlan(), tmp_path))) for _ in range(8)
    ]
    with caplog.at_level(logging.INFO, logger="sparkscore"):
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len({id(session) for session in found}) == 1
    assert [r.levelname for r in caplog.records if "session of" in r.message] == ["INFO"]


def test_a_forked_child_loads_its_own_session_and_has_its_own_watchdog(tmp_path):
    ref = graphs.write(tmp_path, graphs.endless())
    open_session(ref, SessionPlan(), tmp_path).run({"x": np.zeros(1, np.float32)}, ["y"], 5.0)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            open_session(ref, SessionPlan(), tmp_path).run({"x": np.ones(1, np.float32)}, ["y"], 0.2)
        except CallTimeout:
            code = 42
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


# -- providers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device, available, names",
    [
        ("cpu", GPU_WHEEL, (CPU,)),
        ("cuda", GPU_WHEEL, (CUDA, CPU)),
        ("tensorrt", GPU_WHEEL, (TENSORRT, CUDA, CPU)),
        ("auto", GPU_WHEEL, (CUDA, CPU)),
        ("auto", [CPU], (CPU,)),
    ],
)
def test_a_device_asks_for_its_providers_in_order(device, available, names):
    assert tuple(name for name, _ in providers_for(SessionPlan(device=device), available)) == names


@without_cuda
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_the_wheel_lacks_is_refused_and_never_replaced_by_the_cpu(tmp_path, device):
    assert code_of(opened, tmp_path, graphs.linear(), SessionPlan(device=device)) == "SPS-ENV-PROVIDER"


def test_cuda_defaults_are_safe_and_single_options_can_be_overridden():
    plan = SessionPlan(device="cuda", providers=(("cuda", (("gpu_mem_limit", "1000"), ("tunable_op_enable", "1"))),))
    options = dict(dict(providers_for(plan, GPU_WHEEL))[CUDA])
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["do_copy_in_default_stream"] == "1"
    assert (options["tunable_op_enable"], options["gpu_mem_limit"]) == ("1", "1000")


@pytest.mark.parametrize(
    "device, precision, tf32, fp16",
    [
        ("cuda", "as_is", "0", None),
        ("cuda", "tf32", "1", None),
        ("tensorrt", "as_is", "0", "0"),
        ("tensorrt", "tf32", "1", "0"),
        ("tensorrt", "fp16", "0", "1"),
    ],
)
def test_a_precision_is_an_option_of_each_provider_that_has_it(device, precision, tf32, fp16):
    asked = {
        name: dict(options) for name, options in providers_for(SessionPlan(device, precision=precision), GPU_WHEEL)
    }
    assert asked[CUDA]["use_tf32"] == tf32
    assert asked.get(TENSORRT, {}).get("trt_fp16_enable") == fp16


@without_cuda
def test_tasks_that_share_a_gpu_have_a_part_of_nine_tenths_of_its_memory_each():
    plan = SessionPlan(device="cuda", gpu_tasks=4)
    assert dict(providers_for(plan, [CUDA, CPU], 80 * 10**9)[0][1])["gpu_mem_limit"] == str(18 * 10**9)
    assert "gpu_mem_limit" not in dict(providers_for(plan, [CUDA, CPU])[0][1])
    own = replace(plan, providers=(("cuda", (("gpu_mem_limit", "7"),)),))
    assert dict(providers_for(own, [CUDA, CPU], 80 * 10**9)[0][1])["gpu_mem_limit"] == "7"


@pytest.mark.parametrize("said, found", [("echo 81559", 81559 * 2**20), ("exit 6", None), ("echo '[N/A]'", None)])
def test_the_memory_of_the_task_s_gpu_is_what_nvidia_smi_says(tmp_path, monkeypatch, said, found):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n[ $1 = --id=3 ] && {said}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert gpu_memory_bytes() == found


def test_auto_on_a_wheel_whose_cuda_does_not_start_runs_on_the_cpu_and_says_why(tmp_path, monkeypatch, caplog):
    # the wheel claims CUDA; this host has none, so ONNX Runtime gives a session on another provider
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.warns(UserWarning, match="not in available"), caplog.at_level(logging.WARNING, logger="sparkscore"):
        session = opened(tmp_path, graphs.linear(), SessionPlan(device="auto"))
    assert session.provider == CPU
    assert "fallback" in caplog.text
    assert CUDA in caplog.text


@without_cuda
def test_cuda_on_a_wheel_whose_cuda_does_not_start_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.warns(UserWarning, match="not in available"):
        assert code_of(opened, tmp_path, graphs.linear(), SessionPlan(device="cuda")) == "SPS-ENV-PROVIDER"


def test_two_wheels_of_onnx_runtime_are_refused_by_name(tmp_path):
    for name in ("onnxruntime-1.32.0", "onnxruntime_gpu-1.31.0"):
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        package, version = name.rsplit("-", 1)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    found = installed_distributions([str(tmp_path)])
    assert found == {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    assert code_of(only_distribution, found) == "SPS-ENV-PACKAGE"
    only_distribution({"onnxruntime-gpu": "1.31.0"})


def test_a_missing_onnx_runtime_is_named(tmp_path):
    script = """
        import sys
        sys.modules["onnxruntime"] = None
        from pathlib import Path
        from sparkscore.runtime.loading import read_signature
        from sparkscore.errors import SparkscoreError
        try:
            read_signature(Path("."), "model.onnx")
        except SparkscoreError as failure:
            print(failure.code)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "SPS-ENV-PACKAGE"


# -- time ------------------------------------------------------------------------------------------------


def test_an_endless_loop_is_ended_and_the_session_stays_usable(tmp_path):
    session = opened(tmp_path, graphs.endless())
    started = time.monotonic()
    with pytest.raises(CallTimeout):
        session.run({"x": np.ones(3, np.float32)}, ["y"], 0.3)
    assert 0.25 < time.monotonic() - started < 3
    assert session.run({"x": np.zeros(3, np.float32)}, ["y"], 5.0)[0].tolist() == [0, 0, 0]


def test_calls_in_other_threads_go_on_when_one_is_ended(tmp_path):
    session, results = opened(tmp_path, graphs.endless()), []

    def hang():
        try:
            session.run({"x": np.ones(1, np.float32)}, ["y"], 0.3)
        except CallTimeout:
            results.append("ended")

    worker = threading.Thread(target=hang)
    worker.start()
    while worker.is_alive():
        session.run({"x": np.zeros(1, np.float32)}, ["y"], 5.0)
    assert results == ["ended"]


def test_a_call_that_returned_is_never_ended_and_one_that_was_ended_is_told_so():
    """Around its deadline either the call or the watchdog wins; then the same watch serves for the next call."""
    dog, seen = watchdog(), {True: 0, False: 0}
    ended = threading.Event()
    watch = Watch(ended.set)
    for i in range(600):
        dog.start(watch, 0.001)
        time.sleep(i % 30 / 10_000)
        returned = dog.stop(watch)
        assert ended.wait(0.001 if returned else 5.0) != returned
        seen[returned] += 1
        if not returned:
            ended.clear()
            watch = Watch(ended.set)
    assert all(seen.values())


def test_a_watchdog_that_went_to_sleep_among_short_calls_wakes_for_the_next(monkeypatch):
    monkeypatch.setattr("sparkscore.runtime.watchdog._IDLE_AFTER_S", -1.0)
    dog, watch, interval_s = Watchdog(), Watch(lambda: None), sys.getswitchinterval()
    until = time.monotonic() + 1.5
    sys.setswitchinterval(1e-6)
    try:
        while time.monotonic() < until:
            dog.start(watch, 60.0)
            dog.stop(watch)
    finally:
        sys.setswitchinterval(interval_s)
    ended = threading.Event()
    dog.start(Watch(ended.set), 0.05)
    assert ended.wait(5.0)


def test_options_serve_for_the_next_call_but_not_after_they_ended_one(tmp_path):
    session, made = opened(tmp_path, graphs.endless()), []

    for value, timeout_s in [(0, 5.0), (0, 5.0), (1, 0.3), (0, 5.0)]:
        with suppress(CallTimeout):
            session.run({"x": np.full(3, value, np.float32)}, ["y"], timeout_s)
        made.append(list(session._spare_calls))
    assert [len(spare) for spare in made] == [1, 1, 0, 1]
    assert made[0] == made[1]
    assert made[3] != made[1]


def test_options_of_a_call_that_heeded_its_end_too_late_do_not_end_the_next(tmp_path):
    """The flag is read between two nodes, and here is only one."""
    square = helper.make_node("MatMul", ["x", "x"], ["y"])
    session = opened(tmp_path, graphs.graph([square], [("x", 1, ["n", "n"])], [("y", 1, ["n", "n"])]))
    x = np.ones((3000, 3000), np.float32)
    assert session.run({"x": x}, ["y"], 0.001)[0].shape == x.shape
    assert not session._spare_calls
    assert session.run({"x": x[:8, :8]}, ["y"], 5.0)[0].shape == (8, 8)


def test_a_watched_call_costs_next_to_nothing():
    dog, watch = watchdog(), Watch(lambda: None)
    started = time.perf_counter()
    for _ in range(2000):
        dog.stop(dog.start(watch, 60.0))
    assert (time.perf_counter() - started) / 2000 < 50e-6


STUCK = """
    import time
    from sparkscore.runtime.watchdog import Watch, watchdog

    watchdog().start(Watch(lambda: None), timeout_s=0.1, exit_after_s={exit_after_s})
    time.sleep(1.0)  # a kernel that does not read the terminate flag
"""


@pytest.mark.parametrize("exit_after_s, code, said", [(0.2, 70, True), (None, 0, False)])
def test_a_call_that_ignores_its_end_ends_the_process_only_where_a_worker_asked_for_it(exit_after_s, code, said):
    script = textwrap.dedent(STUCK.format(exit_after_s=exit_after_s))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("SPS-ROW-TIMEOUT" in done.stderr) == said


def slow_to_load():
    """Constants that ONNX Runtime multiplies while it loads, for much longer than 10 ms."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["c0"])]
    nodes += [helper.make_node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(3)]
    nodes += [helper.make_node("ReduceSum", ["c3"], ["s"], keepdims=0), helper.make_node("Add", ["x", "s"], ["y"])]
    shape = np.array([1500, 1500], dtype=np.int64)
    return graphs.graph(nodes, [("x", 1, ["n"])], [("y", 1, ["n"])], [("shape", shape)])


def test_a_load_that_takes_too_long_is_a_named_failure(tmp_path):
    assert code_of(opened, tmp_path, slow_to_load(), SessionPlan(load_timeout_s=0.01)) == "SPS-CLUSTER-TIMEOUT"


def test_an_outsized_call_makes_the_arena_shrink_and_ordinary_ones_do_not(tmp_path):
    session = opened(tmp_path, graphs.root())
    small, large = np.zeros(2**18, np.float32), np.zeros(2**21, np.float32)
    assert not session._is_outsized({"x": small})
    assert session._is_outsized({"x": large})
    assert session.run({"x": large}, ["y"])[0].shape == large.shape


def test_a_renewed_session_scores_the_same(tmp_path):
    session = opened(tmp_path, graphs.linear())
    x = {"x": np.array([[1, 2]], np.float32)}
    before = session.run(x, ["y"])[0]
    session.renew()
    np.testing.assert_array_equal(session.run(x, ["y"])[0], before)


# -- load errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [b"", b"garbage, no graph", graphs.linear()[:-30]], ids=["empty", "garbage", "cut"])
def test_a_file_that_is_no_model_is_named_so(tmp_path, model):
    assert code_of(opened, tmp_path, model) == "SPS-MODEL-FORMAT"


def test_an_operator_that_nobody_knows_is_a_format_error_with_onnx_runtime_s_text(tmp_path):
    model = graphs.graph([helper.make_node("Foo", ["x"], ["y"])], [("x", 1, ["n"])], [("y", 1, ["n"])])
    with pytest.raises(SparkscoreError, match="Foo") as caught:
        opened(tmp_path, model)
    assert caught.value.code == "SPS-MODEL-FORMAT"


def test_a_type_without_a_kernel_is_a_type_error(tmp_path):
    node = helper.make_node("ReduceSum", ["x"], ["y"])
    model = graphs.graph([node], [("x", TensorProto.UINT8, ["n"])], [("y", TensorProto.UINT8, ["n"])])
    assert code_of(opened, tmp_path, model) == "SPS-MODEL-TYPE"


def test_a_missing_file_is_named_so(tmp_path):
    ref = graphs.write(tmp_path, graphs.linear())
    (tmp_path / "model.onnx").unlink()
    assert code_of(open_session, ref, SessionPlan(), tmp_path) == "SPS-MODEL-MISSING"


def external(folder):
    folder.mkdir(exist_ok=True)
    model = onnx.load_from_string(graphs.linear())
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return graphs.pin(folder)


def test_external_data_beside_the_model_is_loaded(tmp_path):
    session = open_session(external(tmp_path / "m"), SessionPlan(), tmp_path / "m")
    assert session.run({"x": np.array([[1, 2]], np.float32)}, ["y"])[0].tolist() == [[5.5]]


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_external_data_that_is_missing_or_short_is_named_so(tmp_path, damage):
    ref = external(tmp_path / "m")
    weights = tmp_path / "m" / "weights.bin"
    weights.unlink() if damage == "missing" else weights.write_bytes(b"1")
    assert code_of(open_session, ref, SessionPlan(), tmp_path / "m") == "SPS-MODEL-EXTERNAL"


@pytest.mark.parametrize(
    "text, code",
    [
        ("Unknown provider option: gpu_memory. ProviderOptionsUtils", "SPS-ENV-PROVIDER"),
        ("std::bad_alloc", "SPS-CLUSTER-WORKER"),
    ],
)
def test_load_errors_that_are_the_place_s_fault_are_not_blamed_on_the_model(text, code):
    assert loading._load_error(RuntimeError(text), "m", CPU).code == code
