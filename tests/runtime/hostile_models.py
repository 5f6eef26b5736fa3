"""A corpus of hostile and malformed model files, made on the spot: what it is -> how it is written, and its code."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import FunctionProto, GraphProto, ModelProto, SparseTensorProto, TensorProto, TypeProto, helper, numpy_helper

from tests.scoring import graphs

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
FORMAT, LIMIT, MISSING = "SPS-MODEL-FORMAT", "SPS-MODEL-ADMISSION", "SPS-MODEL-MISSING"
EXTERNAL, LINK = "SPS-MODEL-EXTERNAL", "SPS-MODEL-LINK"
X, Y = ("x", FLOAT, ["n"]), ("y", FLOAT, None)

Maker = Callable[[Path], bytes | None]  # writes what stands beside m.onnx, and gives its bytes (None: written itself)


def node(op, inputs, outputs=("y",), **more):
    return helper.make_node(op, list(inputs), list(outputs), **more)


def one(*nodes, constants=(), inputs=(X,), outputs=(Y,), opset=17):
    return graphs.graph(list(nodes), inputs, outputs, constants, opset)


def with_tensor(**fields):
    """y = x + w, where w is the tensor of these fields."""
    proto = ModelProto.FromString(one(node("Add", ("x", "w"))))
    tensor = proto.graph.initializer.add(name="w", data_type=fields.pop("data_type", FLOAT))
    for name, value in fields.items():
        getattr(tensor, name).extend(value) if isinstance(value, list) else setattr(tensor, name, value)
    return proto


def external(location, dims=(2,), **entries):
    proto = with_tensor(dims=list(dims), data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        proto.graph.initializer[0].external_data.add(key=key, value=str(value))
    return proto.SerializeToString()


def beside(location, *, size=8, name="w.bin", **entries):
    def made(place):
        (place / name).write_bytes(bytes(size))
        return external(location, **entries)

    return made


def linked(place):
    (place.parent / "secret").write_bytes(bytes(8))
    (place / "w.bin").symlink_to(place.parent / "secret")
    return external("w.bin")


def pipe_beside(place):
    os.mkfifo(place / "w.bin")
    return external("w.bin")


def zipped(_):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m.onnx", graphs.linear())
    return buffer.getvalue()


def ort_format(place):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(place.parent / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(graphs.linear(), options, providers=["CPUExecutionProvider"])
    return (place.parent / "model.ort").read_bytes()


def raw_field(number, payload):
    length, head = len(payload), [number << 3 | 2]
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length]) + payload


def nested(depth):
    """Subgraphs in subgraphs, deeper than the `onnx` package would write them."""
    graph = GraphProto(name="g", node=[node("Identity", "x")]).SerializeToString()
    for _ in range(depth):
        graph = raw_field(1, raw_field(5, raw_field(6, graph)))  # graph.node.attribute.g
    return b"\x08\x08" + raw_field(7, graph)


def calling(functions, first):
    """A model that calls `first`, with local functions name -> names that it calls, one after the other."""
    proto = ModelProto.FromString(one(helper.make_node(first, ["x"], ["y"], domain="own")))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    for name, called in functions.items():
        steps = [f"v{i}" for i in range(len(called))]
        nodes = [
            helper.make_node(call, [source], [target], domain="" if call == "Neg" else "own")
            for call, source, target in zip(called, ["a", *steps], steps, strict=False)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        function = FunctionProto(name=name, domain="own", input=["a"], output=[steps[-1]], node=nodes)
        function.opset_import.extend(imports)
        proto.functions.append(function)
    return proto.SerializeToString()


def disguised(_):
    """A compiled engine, with a function of the same name that the file defines itself."""
    proto = ModelProto.FromString(calling({"f": ["Neg"]}, "f"))
    proto.graph.node[0].domain = proto.functions[0].domain = "com.microsoft"
    proto.graph.node[0].op_type = proto.functions[0].name = "EPContext"
    return proto.SerializeToString()


def sparse_bomb(_):
    proto = ModelProto.FromString(one(node("Add", ("x", "w"))))
    values, indices = numpy_helper.from_array(np.float32([1]), "w"), numpy_helper.from_array(np.int64([0]), "i")
    proto.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[(1 << 29) - 1]))
    return proto.SerializeToString()


def deep_type(_):
    inner = helper.make_tensor_type_proto(FLOAT, ["n"])
    for _ in range(40):
        inner = TypeProto(sequence_type=TypeProto.Sequence(elem_type=inner))
    proto = ModelProto.FromString(one(node("Identity", "x")))
    proto.graph.input.add(name="s", type=inner)
    return proto.SerializeToString()


def loop(trips, body_op="Identity"):
    """A Loop of `trips` turns that does nothing, or doubles its value at each turn."""
    step = [node("Identity", ("w",), ("v2",))] if body_op == "Identity" else [node("Concat", "ww", ("v2",), axis=0)]
    body = helper.make_graph(
        [node("Identity", ("go",), ("on",)), *step],
        "body",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("w", FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", BOOL, []), helper.make_tensor_value_info("v2", FLOAT, None)],
    )
    constants = [("most", np.int64(trips)), ("yes", np.bool_(True))]
    return one(node("Loop", ("most", "yes", "x"), body=body), constants=constants)


def many_nodes(count):
    proto = ModelProto.FromString(one(node("Identity", "x")))
    proto.graph.node.extend([node("Neg", "x", (f"z{i}",)) for i in range(count)])
    return proto.SerializeToString()


def shaped(op, *sizes, feed="x"):
    """`op` towards a constant shape: what it makes does not depend on the rows."""
    if op == "ConstantOfShape":
        made = node(op, ("shape",), ("big",))
    else:
        made = node(op, (feed, "shape"), ("big",))
    total = node("ReduceSum", ("big",), ("y",), keepdims=0)
    return one(made, total, constants=[("shape", np.int64(sizes)), ("one", np.float32([1]))])


def fixed(data):
    return lambda _: data() if callable(data) else data


def is_pipe(place):
    os.mkfifo(place / "m.onnx")


# Refused by what the file says; nothing is loaded.
STATIC: dict[str, tuple[Maker, str]] = {
    "empty": (fixed(b""), FORMAT),
    "truncated": (fixed(lambda: graphs.linear()[:-40]), FORMAT),
    "garbage": (fixed(lambda: np.random.default_rng(7).bytes(4096)), FORMAT),
    "a text": (fixed(b"#!/bin/sh\ntouch canary\n"), FORMAT),
    "a zip": (zipped, FORMAT),
    "a pickle that runs code": (fixed(b"cos\nsystem\n(S'touch canary'\ntR."), FORMAT),
    "ORT format": (ort_format, FORMAT),
    "ORT's magic alone": (fixed(struct.pack("<I", 24) + b"ORTM" + bytes(64)), FORMAT),
    "a folder": (lambda place: (place / "m.onnx").mkdir(), MISSING),
    "a named pipe": (is_pipe, MISSING),
    "a huge declared tensor": (
        fixed(lambda: with_tensor(dims=[1 << 40], raw_data=b"abcd").SerializeToString()),
        FORMAT,
    ),
    "a huge declared tensor of strings": (
        fixed(lambda: with_tensor(dims=[1 << 32], data_type=STRING, string_data=[b""] * 9).SerializeToString()),
        FORMAT,
    ),
    "a negative dimension": (fixed(lambda: with_tensor(dims=[-4], raw_data=b"abcd").SerializeToString()), FORMAT),
    "dimensions that overflow": (
        fixed(lambda: with_tensor(dims=[1 << 33, 1 << 31, 1], raw_data=b"abcd").SerializeToString()),
        FORMAT,
    ),
    "a hundred thousand dimensions": (
        fixed(lambda: with_tensor(dims=[1 << 62] * 100_000, raw_data=b"abcd").SerializeToString()),
        FORMAT,
    ),
    "external data by an absolute path": (fixed(lambda: external("/etc/passwd")), EXTERNAL),
    "external data in a parent folder": (fixed(lambda: external("../secret")), EXTERNAL),
    "external data behind a link": (linked, LINK),
    "external data that is missing": (fixed(lambda: external("w.bin")), EXTERNAL),
    "external data that is a named pipe": (pipe_beside, EXTERNAL),
    "external data longer than its file": (beside("w.bin", length=9), EXTERNAL),
    "external data beyond the end": (beside("w.bin", offset=4096, length=8), EXTERNAL),
    "external data at a negative offset": (beside("w.bin", offset=-8, length=8), EXTERNAL),
    "external data of a very long name": (fixed(lambda: external("w" * 5000)), EXTERNAL),
    "external data in memory": (fixed(lambda: external("*/_ORT_MEM_ADDR_/*", offset=4096, length=8)), EXTERNAL),
    "an unknown domain": (fixed(lambda: one(node("Shell", "x", domain="evil.corp"))), LIMIT),
    "a custom operator's library": (fixed(lambda: one(node("BertTokenizer", "x", domain="ai.onnx.contrib"))), LIMIT),
    "a compiled engine": (fixed(lambda: one(node("EPContext", "x", domain="com.microsoft"))), LIMIT),
    "a compiled engine behind a function": (disguised, LIMIT),
    "Python in an operator": (fixed(lambda: one(node("PythonOp", "x", domain="com.microsoft"))), LIMIT),
    "subgraphs without end": (fixed(lambda: nested(2000)), FORMAT),
    "a hundred thousand and one nodes": (fixed(lambda: many_nodes(100_000)), LIMIT),
}

# Refused by the first load, in the child: by ONNX Runtime, or by the limits. The bombs are of 2 to 8 GiB, so that they
# go off where there is no limit.
LOADED: dict[str, tuple[Maker, str]] = {
    "an unknown operator": (fixed(lambda: one(node("Shell", "x"))), FORMAT),
    "a very long name": (fixed(lambda: one(node("N" * 2_000_000, "x"))), FORMAT),
    "an opset of the future": (fixed(lambda: one(node("Neg", "x"), opset=9999)), FORMAT),
    "a cycle": (fixed(lambda: one(node("Add", ("x", "y"), ("z",)), node("Neg", ("z",)))), FORMAT),
    "an output made twice": (fixed(lambda: one(node("Neg", "x"), node("Abs", "x"))), FORMAT),
    "an input from nowhere": (fixed(lambda: one(node("Add", ("x", "nothing")))), FORMAT),
    "an output from nowhere": (fixed(lambda: one(node("Neg", "x", ("z",)))), FORMAT),
    "functions that call each other": (fixed(lambda: calling({"f": ["g"], "g": ["f"]}, "f")), FORMAT),
    "external data shorter than its tensor": (beside("w.bin", dims=(1 << 40,)), EXTERNAL),
    "a sparse tensor of a huge shape": (sparse_bomb, LIMIT),
    "a huge input": (fixed(lambda: one(node("Identity", "x"), inputs=[("x", FLOAT, ["n", 1 << 40])])), LIMIT),
    "a huge ConstantOfShape": (fixed(lambda: shaped("ConstantOfShape", 1 << 30)), LIMIT),
    "a huge Expand": (fixed(lambda: shaped("Expand", 1 << 15, 1 << 15)), LIMIT),
    "a huge Tile": (fixed(lambda: shaped("Tile", 1 << 29)), LIMIT),
    "a huge Tile of a constant": (fixed(lambda: shaped("Tile", 1 << 33, feed="one")), LIMIT),
    "a Range without end": (
        fixed(
            lambda: one(
                node("Range", ("zero", "most", "step"), ("r",)),
                node("Cast", ("r",), to=FLOAT),
                constants=[("zero", np.int64(0)), ("most", np.int64(1 << 33)), ("step", np.int64(1))],
            )
        ),
        LIMIT,
    ),
    "a type in forty types": (deep_type, FORMAT),
    "a Loop that doubles": (fixed(lambda: loop(1 << 40, "Concat")), LIMIT),
}

# Those that have no end.
ENDLESS: dict[str, tuple[Maker, str]] = {
    "functions that double forty times": (
        fixed(lambda: calling({"f0": ["Neg"], **{f"f{i}": [f"f{i - 1}"] * 2 for i in range(1, 41)}}, "f40")),
        LIMIT,
    ),
    "a Loop without end": (fixed(lambda: loop(1 << 62)), LIMIT),
}


def scan_sum():
    body = helper.make_graph(
        [node("Add", ("s", "e"), ("t",)), node("Identity", ("t",), ("o",))],
        "body",
        [helper.make_tensor_value_info(name, FLOAT, []) for name in "se"],
        [helper.make_tensor_value_info(name, FLOAT, []) for name in "to"],
    )
    return one(
        node("Scan", ("zero", "x"), ("last", "y"), body=body, num_scan_inputs=1), constants=[("zero", np.float32(0))]
    )


def nested_if(depth):
    """If in If, `depth` deep."""
    branch = helper.make_graph(
        [node("Identity", "x", ("r0",))], "g0", [], [helper.make_tensor_value_info("r0", FLOAT, None)]
    )
    for i in range(1, depth + 1):
        step = node("If", ("yes",), (f"r{i}",), then_branch=branch, else_branch=branch)
        branch = helper.make_graph([step], f"g{i}", [], [helper.make_tensor_value_info(f"r{i}", FLOAT, None)])
    outer = node("If", ("yes",), ("y",), then_branch=branch, else_branch=branch)
    return one(outer, constants=[("yes", np.bool_(True))])


def guarded_expand():
    """x where its maximum is not above zero, else a huge tensor."""
    result = helper.make_tensor_value_info("r", FLOAT, None)
    huge = helper.make_graph([node("Expand", ("x", "shape"), ("r",))], "huge", [], [result])
    same = helper.make_graph([node("Identity", "x", ("r",))], "same", [], [result])
    nodes = [
        node("ReduceMax", "x", ("most",), keepdims=0),
        node("Greater", ("most", "zero"), ("above",)),
        node("If", ("above",), then_branch=huge, else_branch=same),
    ]
    return one(*nodes, constants=[("zero", np.float32(0)), ("shape", np.int64([1 << 40]))])


# Admitted: how it is written, and what is flagged.
GOOD: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "a linear model": (fixed(graphs.linear), ()),
    "external data": (beside("w.bin", length=8), ()),
    "nested Ifs": (fixed(lambda: nested_if(5)), ("If",)),
    "a Loop that ends": (fixed(lambda: loop(3)), ("Loop",)),
    "a Scan": (fixed(scan_sum), ("Scan",)),
    "an old opset": (fixed(lambda: one(node("Neg", "x"), opset=7)), ()),
    "a string input": (fixed(graphs.text_length), ()),
    "a model that refuses zeros": (fixed(graphs.always_raising), ()),
    "functions of its own": (fixed(lambda: calling({"f": ["g", "g"], "g": ["Neg"]}, "f")), ()),
    "a hundred thousand nodes": (fixed(lambda: many_nodes(99_999)), ()),
    "a large shape that zeros do not make": (fixed(guarded_expand), ("If", "huge Expand")),
    "NaN in the weights": (
        fixed(lambda: one(node("Add", ("x", "w")), constants=[("w", np.float32([np.nan]))])),
        ("NaN in weights",),
    ),
}
