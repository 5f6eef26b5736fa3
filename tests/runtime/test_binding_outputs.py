"""Selected graph outputs become typed result columns with names of their own, or are refused with what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from sparkscore.runtime.encoders import Encoder
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.outputs import OutputColumn
from sparkscore.runtime.tensors import Tally
from tests.runtime.bench import SCHEMA, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# -- outputs -------------------------------------------------------------------------------------------

GIVES = [("label", "int64", (None,)), ("probabilities", "float32", (None, 2)), ("hidden", "float16", (None, None, 4))]


def outputs(bench: Bench, selected: Any, gives: Any = GIVES, **keys: Any) -> tuple[tuple[str, str, str, int], ...]:
    plans = bench({"x": ["a", "b", "n"]}, selected, gives=gives, **keys).plan.outputs
    return tuple((p.column, p.output, p.dtype, p.rank) for p in plans)


def test_without_outputs_every_tensor_becomes_a_column_named_after_it(bench):
    gives = [("gpu_0/softmax_1", "float32", (None, 1)), ("1", "int64", (None,)), ("a.b:0", "str", (None, 2, 3))]
    assert outputs(bench, None, gives) == (
        ("gpu_0_softmax_1", "gpu_0/softmax_1", "float32", 0),
        ("output_1", "1", "int64", 0),
        ("a_b_0", "a.b:0", "str", 2),
    )


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("probabilities[:, 1]", ("probabilities", "float32", 0)),
        ("probabilities", ("probabilities", "float32", 1)),
        ("probabilities[:, 1:]", ("probabilities", "float32", 0)),
        ({"output": 0}, ("label", "int64", 0)),
        ({"output": "probabilities", "then": ["argmax", {"labels": "labels.txt"}]}, ("probabilities", "str", 0)),
        ({"output": "probabilities", "then": [{"top_k": 2}]}, ("probabilities", "top_k:float32", 1)),
        (
            {"output": "probabilities", "then": ["softmax", {"top_k": 1}, {"labels": ["no", "yes"]}]},
            ("probabilities", "top_k:float32:labels", 1),
        ),
        ({"output": "hidden", "then": ["mean_pool", "l2_normalize"], "encode": "binary"}, ("hidden", "float32", 1)),
        ({"output": "hidden", "then": ["cls_pool"]}, ("hidden", "float16", 1)),
        ({"output": "hidden", "index": "[:, 0, 1:3]", "then": [{"threshold": 0}]}, ("hidden", "bool", 1)),
        ({"output": "label", "then": [{"labels": ["no", "yes"]}]}, ("label", "str", 0)),
        ({"output": "label", "then": [{"affine": [2, 0]}]}, ("label", "float64", 0)),
    ],
)
def test_the_type_of_a_column_follows_its_index_and_steps(bench, entry, expected):
    assert outputs(bench, {"c": entry}) == (("c", *expected),)


def test_mean_pool_reads_the_attention_mask_of_a_text_model(bench):
    star = {"text": "carrier", "tokenizer": "tokenizer.json", "max_tokens": 8}
    graph = [(name, "int64", (None, None)) for name in ("input_ids", "attention_mask")]
    entry = {"e": {"output": "hidden", "then": ["mean_pool"]}}
    plan = bench({"*": star}, entry, graph=graph, gives=GIVES).plan.outputs[0]
    assert plan.then == (("mean_pool", "attention_mask"),)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("probability", "got 'probability', which it lacks. The model's outputs: label int64 (n), probabilities"),
        ({"output": 3}, "Expected a position below 3, got 3. The model's outputs: label int64 (n)"),
        ("probabilities[:, 2]", "Column 'c' of output 'probabilities', float32 (n, 2): Expected at least 3 values"),
        ("label[:, 0]", "Expected 1 axes after the rows for the index [:, 0], got int64 (n)"),
        ({"output": "label", "then": ["softmax"]}, "Expected 1 axes or more after the rows, got int64 (n)"),
        ({"output": "probabilities", "then": [{"top_k": 3}]}, "Expected at least 3 scores a row"),
        (
            {"output": "probabilities", "then": ["argmax", {"labels": ["x"]}]},
            "Expected 2 labels, one a class, and not 1",
        ),
        ({"output": "probabilities", "then": [{"top_k": 1}], "encode": "flat"}, "got the pairs of top_k"),
        ({"output": "label", "then": [{"labels": ["x"]}], "encode": "binary"}, "Expected numbers for encode: binary"),
        ({"output": "label", "then": [{"threshold": 1}], "range": [0, 1]}, "Expected numbers for the range"),
    ],
)
def test_an_output_that_the_graph_cannot_give_is_refused(bench, entry, text):
    refusal = bench.refusal({"x": ["a", "b", "n"]}, {"c": entry}, gives=GIVES)
    assert (refusal.code, refusal.exit_code) == ("SPS-SPEC-OUTPUT", 2)
    assert text in refusal.message
    assert entry != "probability" or "Did you mean 'probabilities'?" in refusal.fix


ZIPMAP = [("label", "int64", (None,)), ("output_probability", "seq(map(int64,tensor(float)))", ())]


def test_a_zipmap_output_is_tolerated_until_it_is_selected(bench):
    bound = bench({"x": ["a", "b", "n"]}, gives=ZIPMAP)
    assert [p.column for p in bound.plan.outputs] == ["label"]
    assert "output 'output_probability' (seq(map(int64,tensor(float)))) is no tensor and left out" in bound.warnings[0]
    assert outputs(bench, {"l": "label"}, ZIPMAP) == (("l", "label", "int64", 0),)
    refusal = bench.refusal({"x": ["a", "b", "n"]}, {"p": "output_probability"}, gives=ZIPMAP)
    assert (refusal.code, refusal.exit_code) == ("SPS-MODEL-TYPE", 5)
    assert "to_onnx(model, X, options={'zipmap': False})" in refusal.fix
    assert bench.refusal({"x": ["a", "b", "n"]}, gives=ZIPMAP[1:]).code == "SPS-MODEL-TYPE"


def test_an_output_of_undeclared_shape_has_the_axes_that_its_index_names(bench):
    gives = [("y", "float32", ())]
    assert outputs(bench, {"c": "y[:, 1, :]"}, gives) == (("c", "y", "float32", 1),)
    assert outputs(bench, {"c": "y"}, gives) == (("c", "y", "float32", 0),)


def test_an_output_that_does_not_grow_with_the_rows_is_warned_of(bench):
    bound = bench({"x": ["a", "b", "n"]}, gives=[("y", "float32", (1, 2))])
    assert bound.warnings == ("output 'y' declares 1 rows whatever its input (y float32 (1, 2)).",)


# -- names of result columns ---------------------------------------------------------------------------


def test_keys_come_first_among_the_kept_columns(bench):
    x = {"x": ["a", "b", "n"]}
    assert bench(x, keys=["ID"]).plan.keep == ("id",)
    assert bench(x, keys=["ID"], keep=["ts", "id"]).plan.keep == ("id", "ts")
    assert bench(x, keys=["ts"], keep="all").plan.keep == ("ts", *(f for f in SCHEMA.names if f != "ts"))
    assert bench(x).plan.keep == ()


def test_an_old_ss_column_is_dropped_with_a_warning(bench):
    schema = SCHEMA.append(pa.field("_ss", pa.string()))
    bound = bench({"x": ["a", "b", "n"]}, keep="all", schema=schema)
    assert "_ss" not in bound.plan.keep
    assert bound.warnings == (
        "column '_ss' of the input, from an earlier run, is dropped. Rename it in prepare to keep it.",
    )


@pytest.mark.parametrize(
    ("selected", "keys", "text", "fix"),
    [
        ({"ID": "y[:, 0]"}, {"keys": ["id"]}, "output column 'ID' beside kept column 'id'", "Rename the output"),
        ({"p": "y", "P": "y"}, {}, "output column 'P' beside output column 'p'", "Rename the output"),
        ({"_SS": "y"}, {}, "output column '_SS' beside sparkscore's own column '_ss'", "Rename the output"),
        ({"err": "y"}, {}, "output column 'err' beside sparkscore's own column 'err'", "Rename the output"),
    ],
)
def test_two_result_columns_of_one_name_are_refused(bench, selected, keys, text, fix):
    refusal = bench.refusal({"x": ["a", "b", "n"]}, selected, **keys)
    assert (refusal.code, refusal.exit_code) == ("SPS-SPEC-COLLISION", 2)
    assert text in refusal.message
    assert fix in refusal.fix


def test_a_kept_column_with_a_reserved_name_is_refused(bench):
    schema = SCHEMA.append(pa.field("Err", pa.string()))
    refusal = bench.refusal({"x": ["a", "b", "n"]}, keep=["err"], schema=schema)
    assert refusal.code == "SPS-SPEC-COLLISION"
    assert "Rename the column in prepare" in refusal.fix


def test_default_names_that_collide_are_refused(bench):
    gives = [("a/b", "float32", (None,)), ("a:b", "float32", (None,))]
    assert bench.refusal({"x": ["a", "b", "n"]}, gives=gives).code == "SPS-SPEC-COLLISION"


# -- all the way through a real model ------------------------------------------------------------------


def test_a_bound_plan_scores_a_batch_through_onnx_runtime(bench):
    """p = sigmoid(x @ w): bound, encoded, run and written, against plain numpy."""
    weights = np.array([[1.0, -1.0], [0.5, 0.25], [0.0, 2.0]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, (3, 2), weights.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString())
    plan = bench({"x": ["a", "b", "n"]}, {"p": {"output": "y", "index": "[:, 1]", "then": ["sigmoid"]}}).plan
    cells = pa.record_batch(
        {"a": pa.array([1, 2, 3], pa.float32()), "b": [4.0, None, 6.0], "n": pa.array([7, 8, 9], pa.int32())}
    )
    faults = Faults(3)

    group = Encoder(plan, bench.model.folder).encode(cells, faults, Tally())[0]
    column, bad = OutputColumn(plan.outputs[0], bench.model.folder).build(session.run(["y"], group.feeds)[0])

    x = np.array([[1, 4, 7], [3, 6, 9]], np.float64)
    np.testing.assert_allclose(column.to_pylist(), 1 / (1 + np.exp(-(x @ weights[:, 1]))), rtol=1e-6)
    assert group.rows.tolist() == [0, 2]
    assert faults.get(1).code == "SPS-ROW-NULL"
    assert bad is None
