"""What a batch costs on a GPU by the ways to hand it over: ``python -m benchmarks.gpu``, with onnxruntime-gpu.

The ways: a plain call, IO binding, buffers on the device, and arrays in page-locked memory, also from two threads.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CUDA = "CUDAExecutionProvider"
OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
    "do_copy_in_default_stream": "1",
    "use_tf32": "0",
}
_RNG = np.random.default_rng(0)


def _mlp(layers: Sequence[int]) -> tuple[list[Any], list[Any], list[Any]]:
    nodes, weights, name = [], [], "x"
    for i, (rows, cols) in enumerate(pairwise(layers)):
        weights.append(_weight(f"w{i}", rows**-0.5, rows, cols))
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"h{i}"]))
        name = "y" if i == len(layers) - 2 else f"a{i}"
        nodes.append(helper.make_node("Relu", [f"h{i}"], [name]))
    return nodes, weights, ["n", layers[0]]


def _cnn(channels: Sequence[int]) -> tuple[list[Any], list[Any], list[Any]]:
    nodes, weights, name = [], [], "x"
    for i, (a, b) in enumerate(pairwise(channels)):
        weights.append(_weight(f"w{i}", (a * 9) ** -0.5, b, a, 3, 3))
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"a{i}"]))
        name = f"a{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    return nodes, weights, ["n", channels[0], 224, 224]


def _weight(name: str, scale: float, *shape: int) -> Any:
    return numpy_helper.from_array(_RNG.normal(0, scale, shape).astype(np.float32), name)


WORKLOADS = {
    "MLP 30-64-32-1, 8,192 rows": (_mlp((30, 64, 32, 1)), 8192, 300),
    "MLP 1024-2048-512-16, 8,192 rows": (_mlp((1024, 2048, 512, 16)), 8192, 100),
    "CNN 3-32-64-128-256, 256 images of 224x224": (_cnn((3, 32, 64, 128, 256)), 256, 40),
}


def main() -> None:
    """Print one JSON line a workload: milliseconds a batch by way, and whether the outputs are the same bytes."""
    for name, (parts, rows, repeats) in WORKLOADS.items():
        print(json.dumps({"workload": name, **_measured(parts, rows, repeats)}), flush=True)


def _measured(parts: tuple[list[Any], list[Any], list[Any]], rows: int, repeats: int) -> dict[str, Any]:
    import onnxruntime as ort

    session = _session(parts)
    shape = (rows, *parts[2][1:])
    batches = [_RNG.normal(0, 1, shape).astype(np.float32) for _ in range(4)]
    locked = [_page_locked(batch) for batch in batches[:2]]
    expected = session.run(["y"], {"x": batches[1]})[0]
    x = ort.OrtValue.ortvalue_from_numpy(batches[0], "cuda", 0)
    y = ort.OrtValue.ortvalue_from_shape_and_type(list(expected.shape), np.float32, "cuda", 0)
    held = session.io_binding()
    held.bind_ortvalue_input("x", x)
    held.bind_ortvalue_output("y", y)

    def plain(of: list[Any], k: int) -> Any:
        return session.run(["y"], {"x": of[k % len(of)]})[0]

    def bound(k: int) -> Any:
        binding = session.io_binding()
        binding.bind_cpu_input("x", batches[k % 4])
        binding.bind_output("y", "cpu")
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    def on_device(k: int) -> Any:
        x.update_inplace(batches[k % 4])
        session.run_with_iobinding(held)
        return y.numpy()

    def copied(k: int) -> Any:
        np.copyto(locked[k % 2], batches[k % 4])
        return plain(locked, k)

    ways: dict[str, Callable[[int], Any]] = {
        "plain call": lambda k: plain(batches, k),
        "IO binding": bound,
        "buffers on the device": on_device,
        "in page-locked memory": lambda k: plain(locked, k),
        "copied to page-locked memory": copied,
    }
    same = {way: bool(np.array_equal(call(1), expected)) for way, call in ways.items()}
    found = {way: _ms(call, repeats) for way, call in ways.items()}
    found["the model alone"] = _ms(lambda k: session.run_with_iobinding(held), repeats)
    found["plain call, two threads"] = _ms_of_two(lambda k: plain(batches, k), repeats)
    found["in page-locked memory, two threads"] = _ms_of_two(lambda k: plain(locked, k), repeats)
    return {"ms": found, "same bytes": all(same.values()), "MiB in": round(batches[0].nbytes / 2**20, 1)}


def _session(parts: tuple[list[Any], list[Any], list[Any]]) -> Any:
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    nodes, weights, shape = parts
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    providers = [(CUDA, OPTIONS), "CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), providers=providers)
    if session.get_providers()[0] != CUDA:
        sys.exit("this machine gives no CUDA session: install onnxruntime-gpu with its CUDA and cuDNN")
    return session


def _page_locked(like: np.ndarray) -> np.ndarray:
    """Copy an array into memory that the system may not move, which the device then reads by itself.

    It is allocated as such: an array of numpy's that is locked later (`cudaHostRegister`) may share a page with others,
    which CUDA then refuses to copy.
    """
    runtime = ctypes.CDLL(f"libcudart.so.{'13' if _loads('libcudart.so.13') else '12'}")
    place = ctypes.c_void_p()
    refused = runtime.cudaHostAlloc(ctypes.byref(place), ctypes.c_size_t(like.nbytes), 0)
    if refused or place.value is None:
        sys.exit(f"CUDA error {refused}: no page-locked memory")
    memory = (ctypes.c_byte * like.nbytes).from_address(place.value)
    copy = np.frombuffer(memory, like.dtype).reshape(like.shape)
    np.copyto(copy, like)
    return copy


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _ms(call: Callable[[int], Any], repeats: int) -> float:
    for k in range(3):
        call(k)
    started = time.perf_counter()
    for k in range(repeats):
        call(k)
    return round((time.perf_counter() - started) / repeats * 1000, 3)


def _ms_of_two(call: Callable[[int], Any], repeats: int) -> float:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(call, range(4)))
        started = time.perf_counter()
        list(pool.map(call, range(repeats)))
    return round((time.perf_counter() - started) / repeats * 1000, 3)


if __name__ == "__main__":
    main()
