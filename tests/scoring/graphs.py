"""Small ONNX models with one behaviour each, and their pinned references."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from sparkscore.runtime.cache import manifest_sha256
from sparkscore.spec.scoring import ModelFile, ModelRef

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def graph(nodes, inputs, outputs, constants=(), opset=17):
    """Bytes of a model; inputs and outputs are (name, type, shape), constants are (name, array)."""
    g = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
    )
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def linear(batch="n", width=2):
    """y[n, 1] = x @ (1, 2, …) + 0.5, which no two rows share by accident."""
    weights = np.arange(1, width + 1, dtype=np.float32).reshape(width, 1)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])]
    return graph(
        nodes,
        [("x", FLOAT, [batch, width])],
        [("y", FLOAT, [batch, 1])],
        [("w", weights), ("b", np.float32([0.5]))],
    )


def lookup(size=1000):
    """y[n] = table[i], where an index outside the table raises: a row on which the model fails."""
    node = helper.make_node("Gather", ["table", "i"], ["y"], name="look up")
    table = np.arange(size, dtype=np.float32) * 10
    return graph([node], [("i", INT64, ["n"])], [("y", FLOAT, ["n"])], [("table", table)])


def endless():
    """y = x, after a loop that never ends when some x is positive."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["any"]),
        helper.make_node("Loop", ["", "any", "x"], ["y"], body=body),
    ]
    return graph(nodes, [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])], [("zero", np.float32(0))])


def always_raising():
    """Reshapes every input to seven columns of which it has two."""
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    shape = np.array([-1, 7], dtype=np.int64)
    return graph([node], [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["m", 7])], [("shape", shape)])


def batch_mean():
    """y = x - mean over the batch: a row's result depends on its neighbours."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return graph(nodes, [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])])


def pairs():
    """y = x, by way of rows joined two by two: an odd batch raises."""
    nodes = [helper.make_node("Reshape", ["x", "joined"], ["j"]), helper.make_node("Reshape", ["j", "apart"], ["y"])]
    shapes = [("joined", np.array([-1, 4], dtype=np.int64)), ("apart", np.array([-1, 2], dtype=np.int64))]
    return graph(nodes, [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])], shapes)


def first_row_only():
    """An output of one row, whatever the batch."""
    nodes = [helper.make_node("Gather", ["x", "zero"], ["y"], axis=0)]
    constants = [("zero", np.array([0], dtype=np.int64))]
    return graph(nodes, [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["m", 2])], constants)


def root():
    """y = sqrt(x): NaN for a negative x."""
    return graph([helper.make_node("Sqrt", ["x"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])])


def text_length():
    """y = the string itself, and s a number that a string must spell."""
    nodes = [helper.make_node("Cast", ["s"], ["y"], to=FLOAT)]
    return graph(nodes, [("s", STRING, ["n"])], [("y", FLOAT, ["n"])])


def total():
    """y[n] = the sum of a row of any length."""
    nodes = [helper.make_node("ReduceSum", ["v", "one"], ["y"], keepdims=0)]
    return graph(nodes, [("v", FLOAT, ["n", "d"])], [("y", FLOAT, ["n"])], [("one", np.array([1], dtype=np.int64))])


def encoder(length="t", words=1000):
    """y[n] = the mean of table[ids] where the mask is 1, and each[n, t] = table[ids]; an id outside it raises."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["each"]),
        helper.make_node("Cast", ["mask"], ["real"], to=FLOAT),
        helper.make_node("Mul", ["each", "real"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["real", "one"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["y"]),
    ]
    inputs = [(name, INT64, ["n", length]) for name in ("ids", "mask")]
    outputs = [("y", FLOAT, ["n"]), ("each", FLOAT, ["n", length])]
    constants = [("table", np.sqrt(np.arange(words, dtype=np.float32))), ("one", np.array([1], dtype=np.int64))]
    return graph(nodes, inputs, outputs, constants)


def bare():
    """y = 2 x for one row of three: a graph without an axis for rows."""
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    return graph([node], [("x", FLOAT, [3])], [("y", FLOAT, [3])], [("two", np.float32(2))])


def perils():
    """y[n, 1] = x @ (1, 2) + table[i] + the sum of as many zeros as the largest `size` says."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Gather", ["table", "i"], ["found"]),
        helper.make_node("ReduceMax", ["size"], ["most"], keepdims=1),
        helper.make_node("ConstantOfShape", ["most"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=1),
        helper.make_node("Add", ["xw", "found"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["y"]),
    ]
    inputs = [("x", FLOAT, ["n", 2]), ("i", INT64, ["n"]), ("size", INT64, ["n"])]
    table = np.arange(10, dtype=np.float32).reshape(10, 1)
    constants = [("w", np.float32([[1], [2]])), ("table", table)]
    return graph(nodes, inputs, [("y", FLOAT, ["n", 1])], constants)


def write(folder: Path, model: bytes, name="model.onnx") -> ModelRef:
    """Write a model and pin it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(model)
    return pin(folder, name)


def pin(folder: Path, main="model.onnx") -> ModelRef:
    """Pin every file of a folder."""
    files = tuple(
        ModelFile(p.relative_to(folder).as_posix(), p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    )
    return ModelRef(str(folder / main), "1", manifest_sha256(files), str(folder), main, files)
