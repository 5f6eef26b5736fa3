"""Graph outputs become result columns: each step against an independent formula, Arrow on the same memory, checks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparkscore.errors import ModelError, SpecError
from sparkscore.runtime.outputs import OutputColumn, output_type
from sparkscore.runtime.steps import STEPS, Value, parse_index
from sparkscore.spec.scoring import OutputPlan

RNG = np.random.default_rng(7)
LOGITS = (RNG.normal(size=(50, 9)) * 20).astype(np.float32)


def run(name: str, array: np.ndarray, argument: object = None):
    return STEPS[name].run(array, argument)


def built(array: np.ndarray, dtype: str = "float32", rank: int = 0, feeds=None, folder=None, **plan: object):
    one = OutputColumn(OutputPlan("c", "y", dtype, rank, **plan), folder)  # type: ignore[arg-type]
    column, bad = one.build(array, feeds)
    column.validate(full=True)
    assert column.type == one.arrow_type == output_type(one.plan)
    return column, bad


# -- steps against other formulas ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_softmax_equals_scipys(dtype):
    x = LOGITS.astype(dtype)
    got = run("softmax", x)
    np.testing.assert_allclose(got, scipy.special.softmax(x.astype(np.float64), axis=-1), rtol=1e-5, atol=1e-30)
    assert got.dtype == (np.float64 if dtype == "float64" else np.float32)


def test_sigmoid_equals_scipys_expit_also_far_out():
    x = np.concatenate([LOGITS.ravel(), np.float32([-80, -100, 0, 100, 1e30, -1e30])])
    np.testing.assert_allclose(run("sigmoid", x), scipy.special.expit(x), rtol=2e-6, atol=1e-40)


def test_argmax_is_the_first_of_equals():
    x = np.array([[1, 3, 3], [5, 2, 5]], np.float32)
    assert run("argmax", x).tolist() == [max(range(3), key=lambda i: (row[i], -i)) for row in x] == [1, 0]


@given(
    hnp.arrays(np.int16, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.integers(-3, 3)),
    st.integers(1, 8),
)
@settings(max_examples=300, deadline=None)
def test_top_k_equals_a_sort_by_score_then_position(x, k):
    k = min(k, x.shape[1])
    ranked = run("top_k", x, k)
    for row, index, score in zip(x, ranked.index, ranked.score, strict=True):
        expected = sorted(range(len(row)), key=lambda i: (-int(row[i]), i))[:k]
        assert index.tolist() == expected
        assert score.tolist() == [row[i] for i in expected]


def test_threshold_takes_the_bound_itself_as_true():
    assert run("threshold", np.array([0.4, 0.5, 0.6]), 0.5).tolist() == [False, True, True]


def test_affine_is_a_times_x_plus_b_in_the_outputs_own_type():
    got = run("affine", LOGITS, (2, -1))
    np.testing.assert_allclose(got, np.add(np.multiply(LOGITS, 2.0), -1.0), rtol=1e-6)
    assert got.dtype == np.float32
    assert run("affine", np.array([1, 2]), (0.5, 0)).tolist() == [0.5, 1.0]


def test_clip_holds_values_between_its_bounds():
    got = run("clip", LOGITS, (-1, 1))
    np.testing.assert_array_equal(got, np.minimum(np.maximum(LOGITS, -1), 1))
    assert got.dtype == np.float32


def test_mean_pool_without_a_mask_is_the_mean_over_axis_1():
    x = RNG.normal(size=(4, 5, 3))
    np.testing.assert_allclose(run("mean_pool", x), np.einsum("ntd->nd", x) / 5)


def test_mean_pool_with_a_mask_is_the_mean_of_each_rows_own_places():
    x = RNG.normal(size=(3, 4, 2)).astype(np.float32)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], np.int64)
    got = run("mean_pool", x, mask)
    expected = [x[0, :2].mean(axis=0), x[1].mean(axis=0), np.zeros(2)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == np.float32


def test_cls_pool_is_the_first_place():
    x = RNG.normal(size=(4, 5, 3))
    np.testing.assert_array_equal(run("cls_pool", x), np.stack([row[0] for row in x]))


def test_l2_normalize_gives_length_one_and_leaves_zeros():
    x = np.concatenate([LOGITS, np.zeros((1, 9), np.float32)])
    got = run("l2_normalize", x)
    np.testing.assert_allclose(got[:-1], x[:-1] / np.linalg.norm(x[:-1], axis=1)[:, None], rtol=1e-5)
    assert not got[-1].any()


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("[:, 1]", np.s_[:, 1]),
        ("[:, -1]", np.s_[:, -1]),
        ("[:, 0:2]", np.s_[:, 0:2]),
        ("[ : , ::2 , -2: ]", np.s_[:, ::2, -2:]),
        ("[:, 1:, 2]", np.s_[:, 1:, 2]),
        ("[:, ::-1]", np.s_[:, ::-1]),
        ("[:]", np.s_[:]),
        ("[:, 1,]", np.s_[:, 1]),
    ],
)
def test_an_index_is_numpys(text, index):
    x = RNG.normal(size=(3, 4, 5))
    np.testing.assert_array_equal(run("index", x, text), x[index])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1]",
        "[0:1]",
        "[:, [1]]",
        "[:, None]",
        "[..., 1]",
        "[:, x]",
        "[:, 1.0]",
        "[:, 1",
        "[:, __import__('os')]",
    ],
)
def test_nothing_but_integers_and_slices_is_an_index(text):
    with pytest.raises(SpecError, match="first axis is ':'") as caught:
        parse_index(text)
    assert caught.value.code == "SPS-SPEC-OUTPUT"


def test_labels_name_positions_and_mark_those_without_a_name(tmp_path):
    (tmp_path / "l.txt").write_text("cat\ndog\n")
    column, bad = built(np.array([1, 0, 2, -1]), "str", then=(("labels", "l.txt"),), folder=tmp_path)
    assert column.to_pylist() == ["dog", "cat", None, None]
    assert bad.tolist() == [False, False, True, True]


def test_labels_after_argmax_and_after_top_k():
    x = np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.1]], np.float32)
    names = ("labels", ("a", "b", "c"))

    assert built(x, "str", then=(("argmax", None), names))[0].to_pylist() == ["b", "a"]
    column, bad = built(x, "top_k:float32:labels", 1, then=(("top_k", 2), names))
    assert [[(p["label"], round(p["score"], 1)) for p in row] for row in column.to_pylist()] == [
        [("b", 0.9), ("c", 0.5)],
        [("a", 0.7), ("b", 0.2)],
    ]
    assert bad is None
    column, _ = built(x, "top_k:float32", 1, then=(("top_k", 1),))
    assert [row[0]["index"] for row in column.to_pylist()] == [1, 0]
    assert str(column.type) == "list<item: struct<index: int64, score: float>>"


# -- Arrow ---------------------------------------------------------------------------------------------


def test_a_scalar_output_of_n_or_n_by_1_is_the_models_own_memory():
    for shape in [(4,), (4, 1)]:
        array = np.arange(4, dtype=np.float32).reshape(shape)
        column, bad = built(array)
        assert column.to_pylist() == [0, 1, 2, 3]
        assert column.buffers()[1].address == array.ctypes.data
        assert bad is None


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3), (4, 2, 3, 2), (1, 1), (3, 0)])
def test_arrays_leave_as_nested_lists_on_the_models_own_memory(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    column, _ = built(array, rank=len(shape) - 1)
    leaf = column
    while pa.types.is_list(leaf.type):
        leaf = leaf.values
    assert column.to_pylist() == array.tolist()
    assert not array.size or leaf.buffers()[1].address == array.ctypes.data
    assert not pa.types.is_fixed_size_list(column.type)


def test_flat_gives_one_list_and_binary_the_little_endian_bytes():
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    assert built(array, rank=2, encode="flat")[0].to_pylist() == array.reshape(2, 6).tolist()
    column, _ = built(array, rank=2, encode="binary")
    assert column.to_pylist() == [row.astype("<f4").tobytes() for row in array]
    assert column.buffers()[2].address == array.ctypes.data
    assert built(np.arange(2, dtype=np.float16), "float16", encode="binary")[0].to_pylist() == [b"\0\0", b"\0<"]
    assert built(np.arange(2, dtype=np.float32), encode="flat")[0].to_pylist() == [[0], [1]]


@pytest.mark.parametrize(
    ("dtype", "arrow"),
    [
        ("float16", pa.float32()),
        ("float32", pa.float32()),
        ("float64", pa.float64()),
        ("int8", pa.int8()),
        ("uint8", pa.int16()),
        ("int16", pa.int16()),
        ("uint16", pa.int32()),
        ("int32", pa.int32()),
        ("uint32", pa.int64()),
        ("int64", pa.int64()),
        ("uint64", pa.int64()),
        ("bool", pa.bool_()),
    ],
)
def test_types_that_spark_lacks_leave_as_the_next_wider_one(dtype, arrow):
    array = np.array([0, 1, 100]).astype(dtype)
    column, _ = built(array, dtype)
    assert column.type == arrow
    assert column.to_pylist() == array.tolist()
    assert built(array.reshape(3, 1), dtype, rank=1)[0].type == pa.list_(arrow)


def test_a_uint64_beyond_bigint_makes_its_row_bad():
    _, bad = built(np.array([1, 2**63], np.uint64), "uint64")
    assert bad.tolist() == [False, True]


def test_strings_leave_as_strings():
    assert built(np.array(["a", "é"], object), "str")[0].to_pylist() == ["a", "é"]
    assert built(np.array([["a", "b"]], object), "str", 1)[0].to_pylist() == [["a", "b"]]


def test_an_empty_batch_gives_an_empty_column():
    assert built(np.zeros((0, 3), np.float32), rank=1)[0].to_pylist() == []
    assert built(np.zeros((0, 3), np.float32), rank=1, encode="binary")[0].to_pylist() == []
    assert built(np.zeros((0, 2, 3), np.float32), rank=2, encode="flat")[0].to_pylist() == []
    assert built(np.zeros((0, 3), np.float32), index="[:, 1]")[0].to_pylist() == []


# -- checks --------------------------------------------------------------------------------------------


def test_nan_and_infinity_make_their_row_bad_unless_allowed():
    array = np.array([[1, 2], [np.nan, 1], [1, -np.inf]], np.float32)
    assert built(array, rank=1)[1].tolist() == [False, True, True]
    assert built(array, rank=1, allow_nan=True)[1] is None
    assert built(array, index="[:, 1]")[1].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("then", "dtype", "rank"),
    [
        ((("argmax", None),), "int64", 0),
        ((("top_k", 1),), "top_k:float32", 1),
        ((("threshold", 0.5),), "bool", 1),
        ((("argmax", None), ("labels", ("a", "b"))), "str", 0),
    ],
)
def test_nan_is_seen_before_a_step_that_forgets_it(then, dtype, rank):
    array = np.array([[1, 2], [np.nan, 1]], np.float32)
    assert built(array, dtype, rank, then=then)[1].tolist() == [False, True]


@pytest.mark.parametrize("step", [("sigmoid", None), ("clip", (0.0, 1.0))])
def test_an_infinity_is_seen_before_a_step_that_makes_a_number_of_it(step):
    array = np.array([[1, 2], [np.inf, 1], [1, -np.inf]], np.float32)
    assert built(array, rank=1, then=(step,))[1].tolist() == [False, True, True]
    assert built(array[[0, 2]], rank=1, then=(step,), allow_nan=True)[1] is None


def test_a_value_outside_the_range_makes_its_row_bad():
    array = np.array([0.0, 1.0, 1.5, -0.5], np.float32)
    assert built(array, range=(0, 1))[1].tolist() == [False, False, True, True]
    assert built(array, range=(None, 1))[1].tolist() == [False, False, True, False]
    _, bad = built(
        np.array([[0.5, 2.0], [0.5, 0.1]], np.float32), "top_k:float32", 1, then=(("top_k", 1),), range=(0, 1)
    )
    assert bad.tolist() == [True, False]


@pytest.mark.parametrize(
    ("array", "plan"),
    [
        (np.zeros((4, 2), np.float32), {}),
        (np.zeros(4, np.float32), {"rank": 1}),
        (np.zeros(4, np.float64), {}),
        (np.zeros((4, 2), np.float32), {"index": "[:, 5]"}),
        (np.zeros(4, np.float32), {"index": "[:, 0, 0]"}),
    ],
)
def test_an_output_of_another_shape_than_declared_is_the_models_error(array, plan):
    with pytest.raises(ModelError, match=r"Expected output 'y' to give float32 with .* for column 'c'") as caught:
        built(array, **plan)
    assert caught.value.code == "SPS-MODEL-OUTPUT"


def test_more_values_than_sparks_offsets_can_count_are_refused():
    array = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), (2**16, 2**15), (0, 0))
    for encode in ("nested", "binary"):
        with pytest.raises(ModelError, match=r"at most 2147483647 values .* Set a smaller model\.batch_size"):
            built(array, "int8", 1, encode=encode)


def test_mean_pool_names_the_input_that_it_needs_and_reads_it():
    x = RNG.normal(size=(1, 3, 2)).astype(np.float32)
    plan = OutputPlan("c", "y", "float32", 1, then=(("mean_pool", "attention_mask"),))
    one = OutputColumn(plan, None)  # type: ignore[arg-type]

    column, _ = one.build(x, {"attention_mask": np.array([[1, 0, 0]])})

    assert one.needs == ("attention_mask",)
    np.testing.assert_allclose(column.to_pylist(), x[:, 0])


# -- rules of types ------------------------------------------------------------------------------------

_ARGUMENTS = {
    "top_k": 2,
    "labels": ("a", "b", "c"),
    "threshold": 0.5,
    "affine": (2.0, 1.0),
    "clip": (-1.0, 1.0),
    "index": "[:, 0]",
}
_DTYPES = ["float16", "float32", "float64", "int64", "uint8", "bool"]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (3, 4)])
def test_a_rule_foretells_what_its_function_gives(name, dtype, shape):
    argument = _ARGUMENTS.get(name)
    try:
        told = STEPS[name].gives(Value(dtype, shape), argument)
    except SpecError:
        return
    value = run(name, np.ones((2, *shape), dtype), argument)
    if told.ranked:
        assert (value.score.shape[1:], str(value.score.dtype)) == (told.shape, told.dtype)
    else:
        assert (value.shape[1:], "str" if value.dtype == object else str(value.dtype)) == (told.shape, told.dtype)


@pytest.mark.parametrize(
    ("name", "value", "argument", "text"),
    [
        ("softmax", Value("int64", (3,)), None, "Expected floats, got int64 (n, 3)"),
        ("softmax", Value("float32", ()), None, "Expected 1 axes or more after the rows, got float32 (n)"),
        ("argmax", Value("str", (3,)), None, "Expected numbers, got str (n, 3)"),
        ("top_k", Value("float32", (3,)), 5, "Expected at least 5 scores a row, got float32 (n, 3)"),
        ("top_k", Value("float32", (3, 2)), 1, "Expected one axis of scores a row"),
        ("labels", Value("float32", (3,)), ("a",), "Expected positions, as argmax or top_k give"),
        ("labels", Value("int64", (), classes=10), ("a",), "Expected 10 labels, one a class, and not 1"),
        ("mean_pool", Value("float32", (3,)), None, "Expected 2 axes or more after the rows"),
        (
            "index",
            Value("float32", (2,)),
            "[:, 2]",
            "Expected at least 3 values on axis 1 for the index [:, 2], got float32 (n, 2)",
        ),
        ("index", Value("float32", (2,)), "[:, 0, 0]", "Expected 2 axes after the rows for the index [:, 0, 0]"),
        ("index", Value("float32", (2,), ranked=True), "[:, 0]", "got the pairs of top_k"),
    ],
)
def test_a_step_that_cannot_work_is_refused_before_the_run(name, value, argument, text):
    with pytest.raises(SpecError) as caught:
        STEPS[name].gives(value, argument)
    assert text in caught.value.message
