"""A pipeline, a signature and a schema become the workers' plan; inputs that cannot be fed are refused with a fix."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sparkscore.errors import ModelError, SpecError
from sparkscore.spec.scoring import Category, Image, Missing, Numbers, Tensor, Text
from tests.runtime.bench import Bench, one


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


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


def test_a_column_that_is_denied_to_the_quarantine_is_one_of_the_source(bench):
    assert bench({"x": ["a", "b", "n"]}, quarantine={"deny": ["A"]}).plan.deny == ("a",)
    with pytest.raises(SpecError, match=r"SPS-SPEC-COLUMN.*amout"):
        bench({"x": ["a", "b", "n"]}, quarantine={"deny": ["amout"]})


def test_everything_else_of_the_plan_comes_from_the_pipeline(bench):
    plan = bench(
        {"x": ["a", "b", "n"]},
        model={"uri": "m", "device": "auto", "batch_size": 7, "providers": {"CPUExecutionProvider": {"k": 1}}},
        on_error={"policy": "fail", "max_consecutive_bad_batches": 5, "batch_timeout_s": 3, "load_timeout_s": 4},
        quarantine={"payload": "plain"},
    ).plan
    assert (plan.batch_size, plan.payload, plan.session.device, plan.session.load_timeout_s) == (7, "plain", "auto", 4)
    assert plan.session.providers == (("CPUExecutionProvider", (("k", "1"),)),)
    assert (plan.on_error.policy, plan.on_error.max_consecutive_bad_batches, plan.on_error.batch_timeout_s) == (
        "fail",
        5,
        3,
    )


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
    ("entry", "graph", "code", "text"),
    [
        ({"category": "a", "vocabulary": ["x"]}, one("int64", None, 1), "TYPE", "a category is text or an integer"),
        ({"category": "carrier", "vocabulary": ["x"]}, one("str", None, 1), "TYPE", "a category gives indices"),
        (
            {"category": "n", "vocabulary": [*range(200)]},
            one("int8", None, 1),
            "TYPE",
            "int8 does not hold the index 199",
        ),
        (
            {"category": "n", "vocabulary": [1], "null": "fill", "fill": 2},
            one("int8", None, 1),
            "VALUE",
            "lacks fill 2",
        ),
        (
            {"category": "n", "vocabulary": [1, 2], "one_hot": True},
            one("float32", None, 3),
            "INPUT",
            "wants float32 (n, 3)",
        ),
        ({"text": "a", "tokenizer": "tokenizer.json"}, one("int64", None, None), "TYPE", "a tokenizer reads text"),
        ({"text": "carrier", "tokenizer": "tokenizer.json"}, one("float32", None, None), "TYPE", "tokens are integers"),
        ({"text": "carrier", "tokenizer": "tokenizer.json"}, one("int64", None, 64), "INPUT", "512 tokens do not fit"),
        (
            {"text": "carrier", "tokenizer": "tokenizer.json"},
            one("int64", None),
            "INPUT",
            "Got tokens of column 'Carrier'",
        ),
        (
            {"image": "carrier", "size": [2, 2]},
            one("float32", None, 3, 2, 2),
            "TYPE",
            "an image is decoded from binary",
        ),
        ({"image": "raw", "size": [2, 2]}, one("uint8", None, 3, 2, 2), "TYPE", "the entry gives float32"),
        ({"image": "raw", "size": [2, 2]}, one("float32", None, 2, 2, 3), "INPUT", "as (n, 3, 2, 2)"),
        (
            {"image": "raw", "size": [2, 2], "dtype": "uint8", "scale": 0.5},
            one("uint8", None, 3, 2, 2),
            "VALUE",
            "scaled pixels are no uint8",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(bench, entry, graph, code, text):
    refusal = bench.refusal({"x": entry}, graph=graph)
    assert (refusal.code, refusal.exit_code) == (f"SPS-SPEC-{code}", 2)
    assert text in refusal.message


@pytest.mark.parametrize(
    ("entry", "dtype", "text"),
    [
        ({"column": "n", "null": "nan"}, "int64", "null: nan does not go with this input"),
        ({"category": "carrier", "vocabulary": ["x"], "null": "nan"}, "int64", "null: nan does not go"),
        (
            {"category": "carrier", "vocabulary": ["x"], "null": "nan", "one_hot": True},
            "float32",
            "null: nan does not go",
        ),
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
    shape = (None, 3, 1, 1) if "image" in entry else (None, None)
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


def test_the_star_needs_a_text_input(bench):
    star = {"text": "carrier", "tokenizer": "tokenizer.json"}
    refusal = bench.refusal({"*": star, "x": ["a", "b", "n"]})
    assert refusal.code == "SPS-SPEC-INPUT"
    assert "Expected one of input_ids, attention_mask, token_type_ids among the model's inputs" in refusal.message


@pytest.mark.parametrize(
    "dtype", ["tensor(bfloat16)", "tensor(float8e4m3fn)", "tensor(int4)", "optional(tensor(float))"]
)
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
    assert (bound.plan.fixed_batch, bound.warnings) == (None, ())


def test_a_fixed_batch_axis_is_planned_also_beside_a_free_one(bench):
    graph = [("x", "float32", (8, 3)), ("z", "float32", (None,))]
    bound = bench({"x": ["a", "b", "n"], "z": "a"}, graph=graph)
    assert (bound.plan.fixed_batch, bound.warnings) == (8, ())


def test_a_batch_of_one_and_no_batch_axis_warn_of_their_cost(bench):
    bound = bench({"x": ["a", "b", "n"]}, graph=one("float32", 1, 3))
    assert (bound.plan.fixed_batch, bound.plan.inputs[0].row_shape) == (1, (3,))
    assert "one row a call (x float32 (1, 3)), which is slow" in bound.warnings[0]
    bound = bench({"x": ["a", "b", "n"]}, graph=one("float32", 3), gives=[("y", "float32", (2,))])
    assert (bound.plan.fixed_batch, bound.plan.inputs[0].row_shape) == (1, (3,))
    assert "no axis for rows (x float32 (3)): one model call a row, which is slow" in bound.warnings[0]
    assert bound.plan.outputs[0].rank == 1


def test_a_scalar_for_a_fixed_vector_is_a_batch_and_a_list_is_a_row(bench):
    bound = bench({"x": "a"}, graph=one("float32", 4))
    assert (bound.plan.fixed_batch, bound.plan.inputs[0].row_shape) == (4, ())
    bound = bench({"x": "v"}, graph=one("float32", 4))
    assert (bound.plan.fixed_batch, bound.plan.inputs[0].row_shape) == (1, (4,))


def test_two_fixed_batch_sizes_and_half_a_batch_axis_are_refused(bench):
    graph = [("x", "float32", (8, 3)), ("z", "float32", (4,))]
    refusal = bench.refusal({"x": ["a", "b", "n"], "z": "a"}, graph=graph)
    assert (refusal.code, refusal.exit_code) == ("SPS-MODEL-TYPE", 5)
    assert "Expected one number of rows a call on all inputs, got [4, 8]" in refusal.message
    graph = [("x", "float32", (None, 3)), ("z", "float32", (2,))]
    refusal = bench.refusal({"x": ["a", "b", "n"], "z": ["a", "b"]}, graph=graph)
    assert refusal.code == "SPS-SPEC-INPUT"
    assert "Expected an axis for rows on all inputs or none, got none on z" in refusal.message


def test_refusals_are_of_the_right_owner(bench):
    assert isinstance(bench.refusal({"x": "ts"}, graph=one("float32", None, 1)), SpecError)
    assert isinstance(bench.refusal({"x": "a"}, graph=one("float32")), ModelError)
