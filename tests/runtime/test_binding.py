"""A pipeline, a signature and a schema become the workers' plan; whatever cannot work is refused with what to write."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from sparkscore.errors import ModelError, SparkscoreError, SpecError
from sparkscore.runtime.binding import Binding, bind
from sparkscore.runtime.encoders import Encoder
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.models import PinnedModel
from sparkscore.runtime.outputs import OutputColumn
from sparkscore.runtime.session import Signature, TensorInfo
from sparkscore.spec.pipeline import load_pipeline
from sparkscore.spec.scoring import Category, Image, Missing, ModelRef, Numbers, Tensor, Text

SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "a": pa.float32(),
        "b": pa.float64(),
        "n": pa.int32(),
        "flag": pa.bool_(),
        "price": pa.decimal128(10, 2),
        "Carrier": pa.string(),
        "day": pa.date32(),
        "ts": pa.timestamp("us", "UTC"),
        "raw": pa.binary(),
        "v": pa.list_(pa.float32()),
        "vv": pa.list_(pa.list_(pa.float64())),
        "words": pa.list_(pa.string()),
        "dims": pa.list_(pa.int32()),
        "s": pa.struct({"x": pa.float32(), "y": pa.list_(pa.float32())}),
        "nothing": pa.null(),
        "m": pa.map_(pa.string(), pa.float32()),
    }
)
X3 = [("x", "float32", (None, 3))]
Y2 = [("y", "float32", (None, 2))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with the encoders' files that the tests name."""
    from tokenizers import Tokenizer, models

    (tmp_path / "vocabulary.txt").write_text("AA\nB6\nDL\n")
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "broken.json").write_text("{}")
    return tmp_path


class Bench:
    """Binds pipelines that differ in one thing from a plain one."""

    def __init__(self, folder: Path) -> None:
        paths = {name: name for name in ("vocabulary.txt", "labels.txt", "tokenizer.json", "broken.json")}
        self.model = PinnedModel(ModelRef("file:m", "1", "0" * 64, "m", "model.onnx", ()), folder, paths)

    def __call__(
        self, inputs: Any, outputs: Any = None, graph: Any = X3, gives: Any = Y2, schema: pa.Schema = SCHEMA, **keys: Any
    ) -> Binding:
        document = {
            "version": 1,
            "name": "p",
            "source": {"format": "delta", "location": "in"},
            "model": {"uri": "m.onnx"},
            "inputs": inputs,
            "outputs": outputs,
            "sink": {"format": "delta", "location": "out"},
            **keys,
        }
        pipeline = load_pipeline({k: v for k, v in document.items() if v is not None})
        signature = Signature(*(tuple(TensorInfo(*one) for one in tensors) for tensors in (graph, gives)))
        return bind(pipeline, self.model, signature, schema)

    def refusal(self, *args: Any, **keys: Any) -> SparkscoreError:
        with pytest.raises(SparkscoreError) as caught:
            self(*args, **keys)
        return caught.value


@pytest.fixture
def bench(folder: Path) -> Bench:
    return Bench(folder)


def one(dtype: str, *shape: int | None) -> list[tuple[str, str, tuple[int | None, ...]]]:
    return [("x", dtype, shape)]


# -- what is bound -------------------------------------------------------------------------------------


def test_scalar_columns_are_bound_under_their_own_names(bench):
    plan = bench({"x": ["A", "a", "`a`"]}).plan
    assert plan.inputs[0].parts == (Numbers(("a", "a", "a"), Missing()),)
    assert plan.inputs[0].row_shape == (3,)
    assert plan.columns == ("a",)


def test_fields_of_structs_keep_the_reference_as_written(bench):
    plan = bench({"x": ["S.x", "a", "a"]}, keys=["CARRIER", "s.X"]).plan
    assert plan.inputs[0].parts[0].columns == ("S.x", "a", "a")
    assert plan.keep == ("Carrier", "s.X")


def test_the_plan_is_small_and_pickles(bench):
    plan = bench({"x": ["a", "b", "n"]}).plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert len(pickle.dumps(plan)) < 2048


def test_mixed_packing_keeps_order_and_policies_and_joins_neighbours(bench):
    mixed = ["a", "n", {"category": "Carrier", "vocabulary": ["x"]}, {"column": "b", "null": "fill", "fill": 0}, "a"]
    parts = bench({"x": mixed}, graph=one("float32", None, 5)).plan.inputs[0].parts
    assert [(type(p), p.columns) for p in parts] == [
        (Numbers, ("a", "n")),
        (Category, ("Carrier",)),
        (Numbers, ("b",)),
        (Numbers, ("a",)),
    ]
    assert parts[2].missing == Missing(null="fill", fill=0)


def test_policies_come_from_the_entry_then_from_the_pipeline(bench):
    entry = {"columns": ["a", "b", "n"], "inf": "allow", "range": [0, 1], "max_bytes": 9}
    missing = bench({"x": entry}, missing={"null": "nan", "nan": "error"}).plan.inputs[0].parts[0].missing
    assert missing == Missing(null="nan", nan="error", inf="allow", range=(0, 1), max_bytes=9)


def test_one_hot_counts_each_entry_of_a_file(bench):
    entry = ["a", {"category": "carrier", "vocabulary": "vocabulary.txt", "one_hot": True, "unknown": 3}]
    part = bench({"x": entry}, graph=one("float32", None, 5)).plan.inputs[0].parts[1]
    assert part == Category(("Carrier",), vocabulary_file="vocabulary.txt", unknown=3, one_hot=True)


@pytest.mark.parametrize(
    ("column", "shape", "row_shape"),
    [
        ("v", (None, 4), (4,)),
        ("v", (None, None), (None,)),
        ("v", (None, 3, None, 2), (3, None, 2)),
        ("raw", (None, 3, 8, 8), (3, 8, 8)),
        ("vv", (None, None, 8), (None, 8)),
        ("s.y", (None, 4), (4,)),
        ({"column": "v", "shape": [3, 4]}, (None, None, None), (3, 4)),
    ],
)
def test_arrays_take_their_row_shape_from_the_graph_or_the_entry(bench, column, shape, row_shape):
    plan = bench({"x": column}, graph=one("float32", *shape)).plan.inputs[0]
    assert plan.parts[0].shape == row_shape
    assert plan.row_shape == shape[1:]


def test_a_shape_column_shapes_flat_values(bench):
    entry = {"column": "raw", "shape_column": "DIMS"}
    plan = bench({"x": entry}, graph=one("float32", None, None, None)).plan
    assert plan.inputs[0].parts == (Tensor(("raw",), shape=(None, None), shape_column="dims"),)
    assert plan.columns == ("raw", "dims")


def test_one_scalar_feeds_n_and_n_by_1(bench):
    assert bench({"x": "a"}, graph=one("float32", None)).plan.inputs[0].row_shape == ()
    assert bench({"x": "a"}, graph=one("float32", None, 1)).plan.inputs[0].row_shape == (1,)
    assert bench({"x": "a"}, graph=one("float32", None, None)).plan.inputs[0].row_shape == (None,)


def test_the_star_feeds_the_text_inputs_that_the_graph_has(bench):
    star = {"text": "carrier", "tokenizer": "tokenizer.json", "max_tokens": 8}
    graph = [(name, "int64", (None, None)) for name in ("input_ids", "attention_mask")]
    plan = bench({"*": star}, graph=graph).plan
    assert {i.name: i.parts[0].field for i in plan.inputs} == {"input_ids": "ids", "attention_mask": "attention_mask"}
    own = {"*": star, "attention_mask": {**star, "max_tokens": 4}}
    assert [i.parts[0].max_tokens for i in bench(own, graph=graph).plan.inputs] == [8, 4]


def test_a_text_field_follows_the_inputs_name_unless_it_is_given(bench):
    entry = {"text": "carrier", "tokenizer": "tokenizer.json"}
    part = bench({"token_type_ids": entry}, graph=[("token_type_ids", "int32", (None, None))]).plan.inputs[0].parts[0]
    assert part == Text(("Carrier",), tokenizer="tokenizer.json", field="type_ids")
    named = {**entry, "field": "attention_mask"}
    assert bench({"x": named}, graph=one("int64", None, None)).plan.inputs[0].parts[0].field == "attention_mask"


def test_an_image_is_bound_with_its_numbers(bench):
    entry = {"image": "raw", "size": [8, 6], "layout": "nhwc", "dtype": "uint8"}
    part = bench({"x": entry}, graph=one("uint8", None, 8, 6, 3)).plan.inputs[0].parts[0]
    assert part == Image(("raw",), size=(8, 6), layout="nhwc", dtype="uint8")


def test_everything_else_of_the_plan_comes_from_the_pipeline(bench):
    plan = bench(
        {"x": ["a", "b", "n"]},
        model={"uri": "m", "device": "auto", "batch_size": 7, "providers": {"CPUExecutionProvider": {"k": 1}}},
        on_error={"policy": "fail", "max_consecutive_bad_batches": 5, "batch_timeout_s": 3, "load_timeout_s": 4},
        quarantine={"payload": "plain"},
    ).plan
    assert (plan.batch_size, plan.payload, plan.session.device, plan.session.load_timeout_s) == (7, "plain", "auto", 4)
    assert plan.session.providers == (("CPUExecutionProvider", (("k", "1"),)),)
    assert (plan.on_error.policy, plan.on_error.max_consecutive_bad_batches, plan.on_error.batch_timeout_s) == ("fail", 5, 3)


# -- casts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        ("a", "float32"),
        ("a", "float64"),
        ("a", "float16"),
        ("n", "int64"),
        ("n", "int8"),
        ("n", "uint8"),
        ("flag", "bool"),
        ("Carrier", "str"),
        ("v", "float64"),
        ("words", "str"),
    ],
)
def test_casts_that_are_fed_without_an_event(bench, column, dtype):
    assert bench({"x": column}, graph=one(dtype, None, 1)).narrowing == ()


@pytest.mark.parametrize(
    ("column", "dtype", "text"),
    [
        ("b", "float32", "column 'b' (double) feeds input 'x' as float32"),
        ("b", "float16", "column 'b' (double) feeds input 'x' as float16"),
        ("n", "float64", "column 'n' (int) feeds input 'x' as float64"),
        ("price", "float64", "column 'price' (decimal(10,2)) feeds input 'x' as float64"),
        ("flag", "int64", "column 'flag' (boolean) feeds input 'x' as int64"),
        ("flag", "float32", "column 'flag' (boolean) feeds input 'x' as float32"),
        ("vv", "float32", "column 'vv' (array<array<double>>) feeds input 'x' as float32"),
    ],
)
def test_a_cast_that_narrows_is_fed_and_said_once(bench, column, dtype, text):
    shape = (None, 2, 2) if column == "vv" else (None, 1)
    assert bench({"x": column}, graph=one(dtype, *shape)).narrowing == (text,)


@pytest.mark.parametrize(
    ("column", "dtype", "fix"),
    [
        ("a", "int64", '{with: {a: "CAST(a AS BIGINT)"}}'),
        ("a", "bool", '{with: {a: "CAST(a AS BOOLEAN)"}}'),
        ("a", "str", '{with: {a: "CAST(a AS STRING)"}}'),
        ("price", "int32", '{with: {price: "CAST(price AS INT)"}}'),
        ("Carrier", "float32", '{with: {Carrier: "CAST(Carrier AS FLOAT)"}}'),
        ("Carrier", "int64", "{category: Carrier, vocabulary: […]}"),
        ("flag", "str", '{with: {flag: "CAST(flag AS STRING)"}}'),
        ("n", "bool", '{with: {n: "CAST(n AS BOOLEAN)"}}'),
        ("day", "float64", '{with: {day: "CAST(unix_date(day) AS DOUBLE)"}}'),
        ("ts", "int64", '{with: {ts: "CAST(unix_seconds(CAST(ts AS TIMESTAMP)) AS BIGINT)"}}'),
        ("nothing", "float32", '{with: {nothing: "CAST(nothing AS FLOAT)"}}'),
        ("v", "int64", '{with: {v: "CAST(v AS ARRAY<BIGINT>)"}}'),
        ("s", "float32", "Name a field of it: s.x, s.y."),
        ("m", "float32", '{with: {m: "CAST(m AS FLOAT)"}}'),
        ("raw", "str", '{with: {raw: "CAST(raw AS STRING)"}}'),
    ],
)
def test_a_cast_that_is_refused_says_what_to_write_in_prepare(bench, column, dtype, fix):
    refusal = bench.refusal({"x": column}, graph=one(dtype, None, 1))
    assert (refusal.code, refusal.exit_code) == ("SPS-SPEC-TYPE", 2)
    assert f"Input 'x' of the model wants {dtype} (n, 1). Got column '{column}': " in refusal.message
    assert fix in refusal.fix


def test_a_list_among_scalars_is_refused(bench):
    refusal = bench.refusal({"x": ["a", "v", "n"]})
    assert "wants float32 (n, 3). Got column 'v': array<float>" in refusal.message
    assert "Feed a list or binary column alone" in refusal.fix
    refusal = bench.refusal({"x": ["a", {"column": "v"}]})
    assert "only single values are packed side by side" in refusal.message


# -- inputs that cannot be fed -------------------------------------------------------------------------


def test_a_missing_column_is_refused_with_near_names(bench):
    refusal = bench.refusal({"x": ["a", "b", "carier"]})
    assert (refusal.code, refusal.exit_code) == ("SPS-SPEC-COLUMN", 2)
    assert "'Carrier'" in refusal.fix


def test_an_unfed_input_and_an_entry_too_many_list_the_graphs_inputs(bench):
    graph = [("x", "float32", (None, 3)), ("mask", "bool", (None,))]
    refusal = bench.refusal({"x": ["a", "b", "n"]}, graph=graph)
    assert (refusal.code, refusal.exit_code) == ("SPS-SPEC-INPUT", 2)
    assert "none for 'mask'. The model's inputs: x float32 (n, 3), mask bool (n)." in refusal.message
    refusal = bench.refusal({"x": ["a", "b", "n"], "msk": "flag"}, graph=graph)
    assert "'msk', which it lacks. The model's inputs: x float32 (n, 3), mask bool (n)." in refusal.message
    assert "Did you mean 'mask'?" in refusal.fix


def test_another_number_of_columns_than_the_graph_wants_is_refused(bench):
    refusal = bench.refusal({"x": ["a", "b"]})
    assert (refusal.code, refusal.exit_code) == ("SPS-SPEC-INPUT", 2)
    assert refusal.message == "Input 'x' of the model wants float32 (n, 3). Got 2 columns (a, b)."
    assert bench.refusal({"x": ["a", "b"]}, graph=one("float32", None)).code == "SPS-SPEC-INPUT"
    assert bench.refusal({"x": "a"}, graph=one("float32", None, 1, 1)).code == "SPS-SPEC-INPUT"


@pytest.mark.parametrize(
    ("entry", "shape", "text"),
    [
        ("vv", (None, 4), "lists of depth 2 give 3 axes with the rows"),
        ("vv", (None, 3, 4, 4), "lists of depth 2 give 3 axes with the rows"),
        ("v", (None,), "it wants one value a row"),
        ("v", (None, None, None), "flat values do not say how long each of its free axes is"),
        ({"column": "v", "shape": [2, 2]}, (None, 3, 2), "the declared shape is (2, 2)"),
        ({"column": "v", "shape": [2, 2]}, (None, None), "the declared shape is (2, 2)"),
        ({"column": "a", "shape": [1]}, (None, 1), "a shape is for lists and bytes"),
        ({"column": "v", "shape_column": "a"}, (None, None, None), "shape_column holds lists of integers"),
    ],
)
def test_an_array_that_does_not_fit_the_tensors_axes_is_refused(bench, entry, shape, text):
    refusal = bench.refusal({"x": entry}, graph=one("float32", *shape))
    assert refusal.exit_code == 2
    assert text in refusal.message


@pytest.mark.parametrize(
    ("entry", "dtype", "shape", "code", "text"),
    [
        ({"category": "a", "vocabulary": ["x"]}, "int64", (None, 1), "TYPE", "a category is text or an integer"),
        ({"category": "carrier", "vocabulary": ["x"]}, "str", (None, 1), "TYPE", "a category gives indices"),
        ({"category": "n", "vocabulary": [*range(200)]}, "int8", (None, 1), "TYPE", "int8 does not hold the index 199"),
        ({"category": "n", "vocabulary": [1], "null": "fill", "fill": 2}, "int8", (None, 1), "VALUE", "lacks fill 2"),
        ({"category": "n", "vocabulary": [1, 2], "one_hot": True}, "float32", (None, 3), "INPUT", "wants float32 (n, 3)"),
        ({"text": "a", "tokenizer": "tokenizer.json"}, "int64", (None, None), "TYPE", "a tokenizer reads text"),
        ({"text": "carrier", "tokenizer": "tokenizer.json"}, "float32", (None, None), "TYPE", "tokens are integers"),
        ({"text": "carrier", "tokenizer": "tokenizer.json"}, "int64", (None, 64), "INPUT", "512 tokens do not fit"),
        ({"text": "carrier", "tokenizer": "tokenizer.json"}, "int64", (None,), "INPUT", "Got tokens of column 'Carrier'"),
        ({"image": "carrier", "size": [2, 2]}, "float32", (None, 3, 2, 2), "TYPE", "an image is decoded from binary"),
        ({"image": "raw", "size": [2, 2]}, "uint8", (None, 3, 2, 2), "TYPE", "the entry gives float32"),
        ({"image": "raw", "size": [2, 2]}, "float32", (None, 2, 2, 3), "INPUT", "as (n, 3, 2, 2)"),
        (
            {"image": "raw", "size": [2, 2], "dtype": "uint8", "scale": 0.5},
            "uint8",
            (None, 3, 2, 2),
            "VALUE",
            "scaled pixels are no uint8",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(bench, entry, dtype, shape, code, text):
    refusal = bench.refusal({"x": entry}, graph=one(dtype, *shape))
    assert (refusal.code, refusal.exit_code) == (f"SPS-SPEC-{code}", 2)
    assert text in refusal.message


@pytest.mark.parametrize(
    ("entry", "dtype", "text"),
    [
        ({"column": "n", "null": "nan"}, "int64", "null: nan does not go with this input"),
        ({"category": "carrier", "vocabulary": ["x"], "null": "nan"}, "int64", "null: nan does not go"),
        ({"category": "carrier", "vocabulary": ["x"], "null": "nan", "one_hot": True}, "float32", "null: nan does not go"),
        ({"text": "carrier", "tokenizer": "tokenizer.json", "null": "nan"}, "int64", "null: nan does not go"),
        ({"image": "raw", "size": [1, 1], "null": "fill", "fill": 0}, "float32", "null: fill does not go"),
        ({"column": "n", "null": "fill", "fill": 300}, "uint8", "fill: 300 does not fit"),
        ({"column": "n", "null": "fill", "fill": 0.5}, "int64", "fill: 0.5 does not fit"),
        ({"column": "n", "null": "fill", "fill": "x"}, "int64", "fill: 'x' does not fit"),
        ({"column": "a", "null": "fill", "fill": 1e6}, "float16", "fill: 1000000.0 does not fit"),
        ({"column": "flag", "null": "fill", "fill": 1}, "bool", "fill: 1 does not fit"),
        ({"column": "carrier", "null": "fill", "fill": 0.5}, "str", "fill: 0.5 does not fit"),
        ({"column": "flag", "range": [0, 1]}, "bool", "a range is for numbers"),
        ({"column": "carrier", "range": [0, 1]}, "str", "a range is for numbers"),
    ],
)
def test_a_policy_that_the_type_cannot_have_is_refused(bench, entry, dtype, text):
    shape = (None, 3, 1, 1) if "image" in entry else (None, 1)
    refusal = bench.refusal({"x": entry}, graph=one(dtype, *shape))
    assert (refusal.code, refusal.exit_code) == ("SPS-SPEC-VALUE", 2)
    assert text in refusal.message


def test_a_default_policy_that_does_not_go_names_where_it_comes_from(bench):
    refusal = bench.refusal({"x": "n"}, graph=one("int64", None, 1), missing={"null": "nan"})
    assert "null: nan (from `missing`) does not go with this input" in refusal.message
    assert "Give this entry its own policy" in refusal.fix


def test_a_broken_encoder_file_is_the_models_error(bench):
    entry = {"text": "carrier", "tokenizer": "broken.json"}
    refusal = bench.refusal({"x": entry}, graph=one("int64", None, None))
    assert (refusal.code, refusal.exit_code) == ("SPS-MODEL-ENCODER", 5)


def test_the_star_needs_a_text_entry_and_a_text_input(bench):
    star = {"text": "carrier", "tokenizer": "tokenizer.json"}
    refusal = bench.refusal({"*": star, "x": ["a", "b", "n"]})
    assert refusal.code == "SPS-SPEC-INPUT"
    assert "Expected one of input_ids, attention_mask, token_type_ids among the model's inputs" in refusal.message
    refusal = bench.refusal({"*": ["a", "b", "n"]})
    assert "Expected one text entry without `field` under '*'" in refusal.message


@pytest.mark.parametrize("dtype", ["tensor(bfloat16)", "tensor(float8e4m3fn)", "tensor(int4)", "optional(tensor(float))"])
def test_types_that_cannot_be_scored_are_the_models_error_also_when_not_selected(bench, dtype):
    refusal = bench.refusal({"x": "a"}, graph=one(dtype, None, 1))
    assert (refusal.code, refusal.exit_code) == ("SPS-MODEL-TYPE", 5)
    assert f"Got input 'x': {dtype}." in refusal.message
    gives = [("y", "float32", (None,)), ("z", dtype, (None,))]
    assert f"Got output 'z': {dtype}." in bench.refusal({"x": ["a", "b", "n"]}, {"p": "y"}, gives=gives).message


def test_an_input_of_undeclared_shape_is_the_models_error(bench):
    refusal = bench.refusal({"x": "a"}, graph=one("float32"))
    assert (refusal.code, refusal.exit_code) == ("SPS-MODEL-TYPE", 5)
    assert "Input 'x' of the model declares no shape" in refusal.message


# -- the batch axis ------------------------------------------------------------------------------------


def test_a_free_batch_axis_takes_any_size(bench):
    bound = bench({"x": ["a", "b", "n"]})
    assert (bound.plan.fixed_batch, bound.plan.batch_axis, bound.warnings) == (None, True, ())


def test_a_fixed_batch_axis_is_planned_also_beside_a_free_one(bench):
    graph = [("x", "float32", (8, 3)), ("z", "float32", (None,))]
    bound = bench({"x": ["a", "b", "n"], "z": "a"}, graph=graph)
    assert (bound.plan.fixed_batch, bound.warnings) == (8, ())


def test_a_batch_of_one_and_no_batch_axis_warn_of_their_cost(bench):
    bound = bench({"x": ["a", "b", "n"]}, graph=one("float32", 1, 3))
    assert (bound.plan.fixed_batch, bound.plan.batch_axis) == (1, True)
    assert "one row a call (x float32 (1, 3)), which is slow" in bound.warnings[0]
    bound = bench({"x": ["a", "b", "n"]}, graph=one("float32", 3), gives=[("y", "float32", (2,))])
    assert (bound.plan.fixed_batch, bound.plan.batch_axis, bound.plan.inputs[0].row_shape) == (1, False, (3,))
    assert "no axis for rows (x float32 (3)): one model call a row, which is slow" in bound.warnings[0]
    assert bound.plan.outputs[0].rank == 1


def test_a_scalar_for_a_fixed_vector_is_a_batch_and_a_list_is_a_row(bench):
    bound = bench({"x": "a"}, graph=one("float32", 4))
    assert (bound.plan.fixed_batch, bound.plan.batch_axis, bound.plan.inputs[0].row_shape) == (4, True, ())
    bound = bench({"x": "v"}, graph=one("float32", 4))
    assert (bound.plan.fixed_batch, bound.plan.batch_axis, bound.plan.inputs[0].row_shape) == (1, False, (4,))


def test_two_fixed_batch_sizes_and_half_a_batch_axis_are_refused(bench):
    graph = [("x", "float32", (8, 3)), ("z", "float32", (4,))]
    refusal = bench.refusal({"x": ["a", "b", "n"], "z": "a"}, graph=graph)
    assert (refusal.code, refusal.exit_code) == ("SPS-MODEL-TYPE", 5)
    assert "Expected one number of rows a call on all inputs, got [4, 8]" in refusal.message
    graph = [("x", "float32", (None, 3)), ("z", "float32", (2,))]
    refusal = bench.refusal({"x": ["a", "b", "n"], "z": ["a", "b"]}, graph=graph)
    assert refusal.code == "SPS-SPEC-INPUT"
    assert "Expected an axis for rows on all inputs or none, got none on z" in refusal.message


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
        ({"output": "probabilities", "then": ["argmax", {"labels": ["x"]}]}, "Expected 2 labels, one a class, and not 1"),
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
    cells = pa.record_batch({"a": pa.array([1, 2, 3], pa.float32()), "b": [4.0, None, 6.0], "n": pa.array([7, 8, 9], pa.int32())})
    faults = Faults(3)

    group = Encoder(plan, bench.model.folder).encode(cells, faults)[0]
    column, bad = OutputColumn(plan.outputs[0], bench.model.folder).build(session.run(["y"], group.feeds)[0])

    x = np.array([[1, 4, 7], [3, 6, 9]], np.float64)
    np.testing.assert_allclose(column.to_pylist(), 1 / (1 + np.exp(-(x @ weights[:, 1]))), rtol=1e-6)
    assert group.rows.tolist() == [0, 2]
    assert faults.get(1).code == "SPS-ROW-NULL"
    assert bad is None


def test_refusals_are_of_the_right_owner(bench):
    assert isinstance(bench.refusal({"x": "ts"}, graph=one("float32", None, 1)), SpecError)
    assert isinstance(bench.refusal({"x": "a"}, graph=one("float32")), ModelError)
