"""List and binary columns become one array a row: shapes, ragged rows, inner nulls, groups of equal shape."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkscore.runtime.faults import Faults
from sparkscore.runtime.tensors import Tally
from sparkscore.spec.scoring import Missing, Numbers, Tensor
from tests.runtime.plans import batch, codes, encode, encoder, message, tensor

INF, NAN = float("inf"), float("nan")


def lists(rows: list[object], element: pa.DataType | None = None) -> pa.Array:
    return pa.array(rows, pa.list_(element or pa.float32()))


def vector(width: int | None, dtype: str = "float32", **missing: object):
    return tensor(dtype, (width,), Tensor(("v",), Missing(**missing), shape=(width,)))  # type: ignore[arg-type]


def test_a_list_of_another_length_is_a_shape_error_of_its_row():
    groups, faults = encode(batch(v=lists([[1, 2], [3], [4, 5], [], [6, 7, 8]])), vector(2))

    assert codes(faults) == dict.fromkeys([1, 3, 4], "SPS-ROW-SHAPE")
    assert message(faults, 1) == "Expected 2 values in column 'v', got 1"
    assert message(faults, 4) == "Expected 2 values in column 'v', got 3"
    np.testing.assert_array_equal(groups[0].rows, [0, 2])
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, 2], [4, 5]], np.float32))


def test_more_wrong_lengths_than_are_named_are_still_marked():
    _, faults = encode(batch(v=lists([[0.0] * n for n in range(40)])), vector(2))
    assert len(codes(faults)) == 39


def test_bytes_of_another_length_are_a_shape_error_and_the_rest_stays_in_step():
    rows = [np.array([i, i + 1], "<f4").tobytes() for i in range(4)]
    rows[1] = b"odd"

    groups, faults = encode(batch(v=pa.array(rows, pa.binary())), vector(2))

    assert codes(faults) == {1: "SPS-ROW-SHAPE"}
    assert message(faults, 1) == "Expected 8 bytes in column 'v', got 3"
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[0, 1], [2, 3], [3, 4]], np.float32))


def test_bytes_after_a_row_of_odd_length_are_still_checked():
    rows = [b"odd", np.array([1, INF], "<f4").tobytes(), np.array([1, 2], "<f4").tobytes()]
    _, faults = encode(batch(v=pa.array(rows, pa.large_binary())), vector(2))
    assert codes(faults) == {0: "SPS-ROW-SHAPE", 1: "SPS-ROW-INF"}


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int64", "bool"])
def test_bytes_are_little_endian_numbers_of_the_tensors_type(dtype):
    values = np.array([[0, 1], [1, 1]], dtype)
    rows = [row.astype(values.dtype.newbyteorder("<")).tobytes() for row in values]

    groups, faults = encode(batch(v=pa.array(rows, pa.binary_view())), vector(2, dtype))

    np.testing.assert_array_equal(groups[0].feeds["x"], values)
    assert groups[0].feeds["x"].dtype == values.dtype
    assert not faults.any


def test_memory_off_the_types_boundary_is_copied_and_counted():
    raw = pa.py_buffer(b"x" + np.array([1, 2, 3, 4], "<f4").tobytes())
    offsets = pa.array([1, 9, 17], pa.int32()).buffers()[1]
    one = encoder(vector(2))

    feed = one.encode(
        batch(v=pa.Array.from_buffers(pa.binary(), 2, [None, offsets, raw])), Faults(2), tally := Tally()
    )[0].feeds["x"]

    np.testing.assert_array_equal(feed, np.array([[1, 2], [3, 4]], np.float32))
    assert feed.flags.aligned
    assert tally.copied_bytes == 16


def test_a_flat_list_takes_the_graphs_fixed_dimensions():
    groups, _ = encode(
        batch(v=lists([list(range(6)), list(range(6, 12))])),
        tensor("float32", (2, 3), Tensor(("v",), shape=(2, 3))),
    )
    np.testing.assert_array_equal(groups[0].feeds["x"], np.arange(12, dtype=np.float32).reshape(2, 2, 3))


def test_one_free_dimension_takes_what_is_left_and_rows_are_grouped_by_shape():
    part = Tensor(("v",), shape=(None, 2))

    groups, faults = encode(
        batch(v=lists([[1, 2], [1, 2, 3, 4], [5, 6], [7], [5, 6, 7, 8]])), tensor("float32", (None, 2), part)
    )

    assert codes(faults) == {3: "SPS-ROW-SHAPE"}
    assert message(faults, 3) == "Expected a multiple of 2 values in column 'v', got 1"
    assert [g.rows.tolist() for g in groups] == [[0, 2], [1, 4]]
    assert [g.feeds["x"].shape for g in groups] == [(2, 1, 2), (2, 2, 2)]
    np.testing.assert_array_equal(groups[1].feeds["x"][1], [[5, 6], [7, 8]])


def test_nested_lists_carry_their_own_shape():
    nested = pa.array([[[1, 2], [3, 4]], [[5, 6]], [[7, 8], [9, 10]]], pa.list_(pa.list_(pa.int32())))

    groups, faults = encode(batch(v=nested), tensor("int64", (None, 2), Tensor(("v",), shape=(None, 2))))

    assert not faults.any
    assert [g.rows.tolist() for g in groups] == [[0, 2], [1]]
    np.testing.assert_array_equal(groups[0].feeds["x"], [[[1, 2], [3, 4]], [[7, 8], [9, 10]]])


def test_an_uneven_nested_list_and_a_wrong_fixed_dimension_are_shape_errors():
    nested = pa.array([[[1, 2], [3]], [[1, 2, 3]], [[1, 2]], []], pa.list_(pa.list_(pa.float32())))

    groups, faults = encode(batch(v=nested), tensor("float32", (None, 2), Tensor(("v",), shape=(None, 2))))

    assert codes(faults) == dict.fromkeys([0, 1, 3], "SPS-ROW-SHAPE")
    assert message(faults, 0) == "Expected an array of shape (any, 2) in column 'v', got another shape or uneven lists"
    np.testing.assert_array_equal(groups[0].feeds["x"], [[[1, 2]]])


def test_a_null_list_inside_is_a_null_error():
    nested = pa.array([[[1.0], None], [[1.0], [2.0]]], pa.list_(pa.list_(pa.float32())))
    part = Tensor(("v",), Missing(null="fill", fill=0.0), shape=(2, 1))

    _, faults = encode(batch(v=nested), tensor("float32", (2, 1), part))

    assert codes(faults) == {0: "SPS-ROW-NULL"}
    assert message(faults, 0) == "Expected lists without null lists in column 'v', got a null inside"


def test_nested_fixed_size_lists_of_a_slice_are_viewed():
    inner = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(24, dtype=np.float32)), 2)
    column = pa.FixedSizeListArray.from_arrays(inner, 3).slice(1, 2)
    one = encoder(tensor("float32", (3, 2), Tensor(("v",), shape=(3, 2))))

    feed = one.encode(batch(v=column), Faults(2), tally := Tally())[0].feeds["x"]

    np.testing.assert_array_equal(feed, np.arange(6, 18, dtype=np.float32).reshape(2, 3, 2))
    assert tally.copied_bytes == 0


def test_an_inner_null_follows_the_policy_of_the_row():
    column = lists([[1, None], [3, 4], None])

    assert codes(encode(batch(v=column), vector(2))[1]) == {0: "SPS-ROW-NULL", 2: "SPS-ROW-NULL"}
    groups, _ = encode(batch(v=column), vector(2, null="nan"))
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, NAN], [3, 4], [NAN, NAN]], np.float32))
    groups, _ = encode(batch(v=column), vector(2, null="fill", fill=9))
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, 9], [3, 4], [9, 9]], np.float32))


def test_a_null_row_of_free_shape_cannot_be_filled():
    _, faults = encode(batch(v=lists([[1], None])), vector(None, null="fill", fill=0))
    assert codes(faults) == {1: "SPS-ROW-NULL"}
    assert message(faults, 1) == "Expected a value in column 'v', got null, which has no shape to be filled"


def test_what_hides_under_a_null_fixed_size_list_is_not_read():
    values = pa.array([1, 2, INF, NAN, 5, 6], pa.float32())
    column = pa.FixedSizeListArray.from_arrays(values, 2, mask=pa.array([False, True, False]))

    groups, faults = encode(batch(v=column), vector(2, null="fill", fill=0, nan="error"))

    assert not faults.any
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, 2], [0, 0], [5, 6]], np.float32))


def test_values_inside_lists_are_checked_by_row():
    column = lists([[1, NAN], [INF, 1], [1e39, 1], [0, 0], [5, 0]], pa.float64())
    _, faults = encode(batch(v=column), vector(2, nan="error", range=(0, 4)))
    assert codes(faults) == {
        0: "SPS-ROW-NAN",
        1: "SPS-ROW-INF",
        2: "SPS-ROW-RANGE",
        4: "SPS-ROW-RANGE",
    }


def test_a_cell_larger_than_max_bytes_is_refused_as_list_and_as_bytes():
    rows = [[0.0] * 3, [0.0] * 2]
    for column in (lists(rows), pa.array([np.array(r, "<f4").tobytes() for r in rows])):
        _, faults = encode(batch(v=column), vector(None, max_bytes=8))
        assert codes(faults) == {0: "SPS-ROW-BYTES"}


def test_a_shape_column_gives_each_rows_shape():
    part = Tensor(("v",), shape=(None, None), shape_column="s")
    cells = batch(
        v=lists([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2], [1], [1], [1, 1]]),
        s=pa.array([[2, 2], [1, 4], [2, 2], None, [1], [1, None]], pa.list_(pa.int32())),
    )

    groups, faults = encode(cells, tensor("float32", (None, None), part))

    assert codes(faults) == dict.fromkeys([2, 3, 4, 5], "SPS-ROW-SHAPE")
    assert message(faults, 2) == "Expected column 'v' to have the shape that column 's' says, got another"
    assert [g.feeds["x"].shape for g in groups] == [(1, 2, 2), (1, 1, 4)]


def test_a_shape_column_must_agree_with_the_graphs_fixed_dimensions():
    part = Tensor(("v",), shape=(None, 2), shape_column="s")
    cells = batch(v=lists([[1, 2, 3, 4]] * 2), s=pa.array([[2, 2], [1, 4]]))
    _, faults = encode(cells, tensor("float32", (None, 2), part))
    assert codes(faults) == {1: "SPS-ROW-SHAPE"}


def test_a_declared_shape_whose_product_wraps_around_is_a_shape_error():
    part = Tensor(("v",), shape=(None, None), shape_column="s")
    shapes = [[2**32, 2**32], [0, 2**62], [0, 3], [2, 1]]
    groups, faults = encode(
        batch(v=lists([[], [], [], [5, 6]]), s=pa.array(shapes, pa.list_(pa.int64()))),
        tensor("float32", (None, None), part),
    )
    assert codes(faults) == dict.fromkeys([0, 1], "SPS-ROW-SHAPE")
    assert [g.feeds["x"].shape for g in groups] == [(1, 0, 3), (1, 2, 1)]


def test_lists_of_strings_feed_string_tensors():
    groups, faults = encode(batch(v=lists([["a", "b"], ["c", None]], pa.string())), vector(2, "str"))
    assert groups[0].feeds["x"].tolist() == [["a", "b"]]
    assert codes(faults) == {1: "SPS-ROW-NULL"}


def test_scalars_follow_the_rows_of_ragged_groups():
    cells = batch(v=lists([[1], [1, 2], [3]]), a=pa.array([10.0, 20.0, 30.0], pa.float32()))

    groups, _ = encode(cells, vector(None), tensor("float32", (1,), Numbers(("a",)), name="y"))

    assert [g.feeds["y"].tolist() for g in groups] == [[[10], [30]], [[20]]]


rows = st.lists(
    st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=3)), min_size=1, max_size=12
)


@given(rows, st.integers(0, 11), st.booleans())
@settings(max_examples=300, deadline=None)
def test_rows_come_out_as_python_says_or_are_marked(cells, start, large):
    """Oracle: plain Python over the same rows, at any slice."""
    start = min(start, len(cells) - 1)
    kind = pa.large_list(pa.float64()) if large else pa.list_(pa.float64())
    column = pa.array(cells, kind).slice(start)

    groups, faults = encode(batch(v=column), vector(2))

    got = {int(r): g.feeds["x"][i].tolist() for g in groups for i, r in enumerate(g.rows)}
    good = {i: row for i, row in enumerate(cells[start:]) if row is not None and len(row) == 2 and None not in row}
    assert got == good
    assert set(codes(faults)) == set(range(len(cells) - start)) - set(good)
