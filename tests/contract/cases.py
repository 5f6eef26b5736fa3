"""The rows that every adapter must score alike."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper

from tests.contract.adapters import Case
from tests.scoring.graphs import graph

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
NAN, INF = float("nan"), float("inf")


def numbers(folder: Path, n: int, **changes: object) -> Case:
    """`n` rows of three floats into y = x @ (1, 2, 3) + 0.5; keyword arguments replace what `Case` holds."""
    from tests.scoring.graphs import linear

    ids = np.arange(n)
    columns = {name: pa.array((ids * (k + 3)) % 101 / 7, pa.float64()) for k, name in enumerate("abc")}
    table = pa.table({"id": pa.array(ids, pa.int64()), **columns})
    case = {"table": table, "model": saved(folder, linear(width=3)), "inputs": {"x": ["a", "b", "c"]}}
    return Case(**{**case, "outputs": {"score": "y[:, 0]"}, **changes})


def policies(folder: Path, missing: dict[str, object]) -> Case:
    """Eight rows, each with one odd value in `a`; `b` has a range, `c` may be filled."""
    odd = [1.0, None, NAN, INF, -INF, 1e300, 2.0, 3.0]
    table = pa.table(
        {
            "id": pa.array(range(8), pa.int64()),
            "a": pa.array(odd, pa.float64()),
            "b": pa.array([0.5] * 6 + [1.5, 0.25], pa.float64()),
            "c": pa.array([1, 2, 3, 4, 5, 6, 7, None], pa.int32()),
        }
    )
    inputs = {"x": ["a", {"column": "b", "range": [0, 1]}, {"column": "c", "null": "fill", "fill": 9}]}
    outputs = {"score": {"output": "y", "index": "[:, 0]", "allow_nan": True}}
    return numbers(folder, 1, table=table, inputs=inputs, outputs=outputs, options={"missing": missing})


def everything(folder: Path) -> Case:
    """Each kind of column and of output in one model: numbers, category, list, bytes, bool, text, fields of structs."""
    n, words = 40, ["AA", "B6", "DL", "??"]
    ids = range(n)
    vectors = [[float(i), 1.0, 2.0, 3.0] for i in ids]
    vectors[6:8] = [None, [1.0]]
    table = pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "Amount": pa.array([None if i == 3 else i / 8 for i in ids], pa.float32()),
            "we.ird": pa.array([i * 3 if i != 4 else 2**40 for i in ids], pa.int64()),
            "tick`y": pa.array([i % 5 for i in ids], pa.int16()),
            "carrier": pa.array([words[i % 3 if i != 5 else 3] for i in ids], pa.string()),
            "vector": pa.array(vectors, pa.list_(pa.float32())),
            "raw": pa.array([struct.pack("<2f", i, -i) if i != 8 else b"\x00\x01" for i in ids], pa.binary()),
            "flag": pa.array([i % 2 == 0 for i in ids], pa.bool_()),
            "text": pa.array([f"n{i} ü" if i != 9 else None for i in ids], pa.string()),
            "s": pa.array(
                [None if i == 10 else {"b": None if i == 11 else i / 4, "deep": {"c": i}} for i in ids],
                pa.struct([("b", pa.float64()), ("deep", pa.struct([("c", pa.int32())]))]),
            ),
            "at": pa.array([datetime(2013, 1, 1, 5, i, tzinfo=UTC) for i in ids], pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal(i) / 100 for i in ids], pa.decimal128(12, 2)),
        }
    )
    inputs = {
        "x": ["amount", "`we.ird`", "`tick``y`"],  # `amount`: the only case-insensitive match
        "i": {"columns": ["`we.ird`"], "range": [0, 1000]},
        "cat": {"category": "carrier", "vocabulary": words[:3]},
        "v": "vector",
        "bytes": {"column": "raw", "shape": [2]},
        "flag": "flag",
        "t": "text",
        "nest": ["s.b", "s.deep.c"],
    }
    outputs = {
        "score": "y[:, 0]",
        "vector_out": "v2",
        "label": {"output": "v2", "then": ["argmax", {"labels": ["w", "x", "y", "z"]}]},
        "top": {"output": "v2", "then": [{"top_k": 2}]},
        "told": "t2",
        "kind": "cat2",
        "yes": "flag2",
        "packed": {"output": "bytes2", "encode": "binary"},
    }
    fed = ["Amount", "we.ird", "tick`y", "carrier", "vector", "raw", "flag", "text", "s"]
    options = {"keep": ["id", "at", "price", "s.b"]}
    return Case(table, saved(folder, _kinds()), inputs, outputs, options, fed)


def _kinds() -> bytes:
    """A graph with an input of each kind: some are joined into y, others come out as they are."""
    nodes = [
        helper.make_node("Cast", ["i"], ["i_float"], to=FLOAT),
        helper.make_node("Concat", ["x", "i_float", "nest"], ["all"], axis=1),
        helper.make_node("ReduceSum", ["all", "one"], ["y"], keepdims=1),
        helper.make_node("Mul", ["v", "two"], ["v2"]),
        helper.make_node("Identity", ["t"], ["t2"]),
        helper.make_node("Identity", ["cat"], ["cat2"]),
        helper.make_node("Not", ["flag"], ["flag2"]),
        helper.make_node("Mul", ["bytes", "two"], ["bytes2"]),
    ]
    inputs = [
        ("x", FLOAT, ["n", 3]),
        ("i", INT64, ["n", 1]),
        ("cat", INT64, ["n"]),
        ("v", FLOAT, ["n", 4]),
        ("bytes", FLOAT, ["n", 2]),
        ("flag", BOOL, ["n"]),
        ("t", STRING, ["n"]),
        ("nest", FLOAT, ["n", 2]),
    ]
    outputs = [
        ("y", FLOAT, ["n", 1]),
        ("v2", FLOAT, ["n", 4]),
        ("t2", STRING, ["n"]),
        ("cat2", INT64, ["n"]),
        ("flag2", BOOL, ["n"]),
        ("bytes2", FLOAT, ["n", 2]),
    ]
    return graph(nodes, inputs, outputs, [("one", np.array([1], np.int64)), ("two", np.float32(2))])


def saved(folder: Path, model: bytes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    return str(folder / "model.onnx")
