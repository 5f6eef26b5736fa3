"""Arrow columns become tensors: viewed, packed, cast, and every value that breaks a rule marks its row."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkscore.runtime import tensors
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.outputs import OutputColumn
from sparkscore.runtime.tensors import Tally
from sparkscore.spec.scoring import Missing, Numbers, OutputPlan, Tensor
from tests.runtime.plans import batch, codes, encode, encoder, message, numbers, tensor

INF, NAN = float("inf"), float("nan")


def float32(*values: float | None) -> pa.Array:
    return pa.array(values, pa.float32())


# -- views ---------------------------------------------------------------------------------------------


def _as_list(flat: pa.Array, width: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(range(0, len(flat) + 1, width), pa.int32()), flat)


def _as_large_list(flat: pa.Array, width: int) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(range(0, len(flat) + 1, width), pa.int64()), flat)


def _as_bytes(flat: pa.Array, width: int) -> pa.Array:
    offsets = pa.array(range(0, 4 * len(flat) + 1, 4 * width), pa.int32())
    return pa.Array.from_buffers(pa.binary(), len(flat) // width, [None, offsets.buffers()[1], flat.buffers()[1]])


def _as_fixed_bytes(flat: pa.Array, width: int) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(4 * width), len(flat) // width, [None, flat.buffers()[1]])


@pytest.mark.parametrize(
    "stored", [_as_list, _as_large_list, pa.FixedSizeListArray.from_arrays, _as_bytes, _as_fixed_bytes]
)
def test_a_fixed_stride_column_is_the_tensors_own_memory(stored):
    flat = pa.array(np.arange(32, dtype=np.float32))
    cells = batch(v=stored(flat, 4))
    one = encoder(tensor("float32", (4,), Tensor(("v",), shape=(4,))))

    feed = one.encode(cells, Faults(8), tally := Tally())[0].feeds["x"]

    address = flat.buffers()[1].address
    assert feed.shape == (8, 4)
    assert address == feed.ctypes.data == ort.OrtValue.ortvalue_from_numpy(feed).data_ptr()
    assert tally.copied_bytes == 0


@pytest.mark.parametrize(
    "stored", [_as_list, _as_large_list, pa.FixedSizeListArray.from_arrays, _as_bytes, _as_fixed_bytes]
)
def test_a_slice_is_viewed_at_its_own_offset(stored):
    flat = pa.array(np.arange(32, dtype=np.float32))
    cells = batch(v=stored(flat, 4).slice(2, 5))

    groups, _ = encode(cells, tensor("float32", (4,), Tensor(("v",), shape=(4,))))

    feed = groups[0].feeds["x"]
    np.testing.assert_array_equal(feed, np.arange(8, 28, dtype=np.float32).reshape(5, 4))
    assert feed.ctypes.data == flat.buffers()[1].address + 2 * 4 * 4


def test_the_bytes_that_an_output_writes_are_the_next_models_input(tmp_path):
    embedding = np.random.default_rng(1).normal(size=(50, 16)).astype(np.float32)
    output = OutputColumn(OutputPlan("v", "v", "float32", 1, encode="binary"), tmp_path)
    written, _ = output.build(embedding)
    one = encoder(tensor("float32", (16,), Tensor(("v",), shape=(16,))))

    feed = one.encode(batch(v=written), Faults(50), tally := Tally())[0].feeds["x"]
    assert feed.ctypes.data == embedding.ctypes.data
    pq.write_table(pa.table({"v": written}), tmp_path / "features.parquet")
    (stored,) = pq.ParquetFile(tmp_path / "features.parquet").iter_batches()
    np.testing.assert_array_equal(one.encode(stored, Faults(50), tally)[0].feeds["x"], embedding)
    assert tally.copied_bytes == 0


def test_one_clean_scalar_column_is_viewed_as_n_and_as_n_by_1():
    column = float32(1, 2, 3).slice(1)
    one = encoder(tensor("float32", (), Numbers(("a",))), tensor("float32", (1,), Numbers(("a",)), name="y"))

    feeds = one.encode(batch(a=column), Faults(2), tally := Tally())[0].feeds

    assert feeds["x"].shape == (2,)
    assert feeds["y"].shape == (2, 1)
    assert feeds["x"].ctypes.data == feeds["y"].ctypes.data == column.buffers()[1].address + 4
    assert tally.copied_bytes == 0


def test_scalar_columns_are_packed_by_one_copy_and_it_is_counted():
    one = encoder(numbers("float32", "abc"))
    cells = batch(a=float32(1, 2), b=float32(3, 4), c=float32(5, 6))

    groups = one.encode(cells, Faults(2), tally := Tally())

    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, 3, 5], [2, 4, 6]], np.float32))
    assert groups[0].feeds["x"].dtype == np.float32
    assert groups[0].feeds["x"].flags.c_contiguous
    assert tally.copied_bytes == 2 * 3 * 4


@pytest.mark.parametrize("to_tensor", [True, False])
def test_packing_gives_the_same_with_and_without_to_tensor(monkeypatch, to_tensor):
    monkeypatch.setattr(tensors, "_TO_TENSOR", to_tensor)
    cells = batch(a=float32(1, 2, 3), b=pa.array([4, 5, None]), c=pa.array([True, False, True])).slice(1)

    groups, _ = encode(cells, numbers("float32", "abc", null="fill", fill=9))

    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[2, 5, 0], [3, 9, 1]], np.float32))


@given(
    st.lists(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 3), min_size=1, max_size=20),
    st.integers(0, 19),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_packed_columns_equal_a_plain_stack(rows, start, to_tensor):
    start = min(start, len(rows) - 1)
    wide = np.array(rows, np.int64)
    cells = batch(a=pa.array(wide[:, 0]), b=pa.array(wide[:, 1].astype(np.int32)), c=pa.array(wide[:, 2])).slice(start)

    groups, faults = encode(cells, numbers("int64", "abc"))

    np.testing.assert_array_equal(groups[0].feeds["x"], wide[start:])
    assert not faults.any


@pytest.mark.parametrize("rows", [1, 2000, 2001, 6100])
@pytest.mark.parametrize("letters", ["abcdefg", "abcdefgh", "abcdefghijklmnopqrstuvwxyz"])
@pytest.mark.parametrize("cast", [False, True])
def test_many_columns_and_rows_are_turned_bit_for_bit_and_a_null_far_down_marks_its_row(rows, letters, cast):
    wide = np.random.default_rng(rows).normal(size=(rows + 1, len(letters))).astype(np.float32)
    columns = {name: wide[:, i] for i, name in enumerate(letters)}
    last = pa.array(wide[:, -1], mask=np.arange(rows + 1) == rows)
    cells = batch(**columns | ({"b": columns["b"].astype(np.float64)} if cast else {}))

    groups, faults = encode(cells.slice(1), numbers("float32", letters))
    feed = groups[0].feeds["x"]
    assert feed.tobytes() == wide[1:].tobytes()
    assert feed.flags.c_contiguous
    assert not faults.any

    position = len(letters) - 1
    cells = cells.set_column(position, letters[-1], last)
    groups, faults = encode(cells.slice(1), numbers("float32", letters))
    assert codes(faults) == {rows - 1: "SPS-ROW-NULL"}
    if rows > 1:
        assert groups[0].feeds["x"].tobytes() == wide[1:-1].tobytes()


# -- casts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pa.array([1, 2], pa.int8()), "int64"),
        (pa.array([1.0, 2.0], pa.float32()), "float64"),
        (pa.array([1.0, 2.0], pa.float64()), "float32"),
        (pa.array([1.0, 2.0], pa.float32()), "float16"),
        (pa.array([1, 2], pa.int16()), "uint8"),
        (pa.array([1, 2], pa.int64()), "int8"),
        (pa.array([1, 2], pa.int64()), "float32"),
        (pa.array([Decimal("1.00"), Decimal("2.00")]), "float32"),
        (pa.array([1.0, 2.0]).cast(pa.float16()), "float16"),
        (pa.array([1, 2]).dictionary_encode(), "float32"),
        (pa.array([1, 2], pa.uint64()), "int64"),
    ],
)
def test_a_column_is_cast_to_the_tensors_type(column, dtype):
    groups, faults = encode(batch(a=column, b=column), numbers(dtype, "ab"))

    assert groups[0].feeds["x"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, 1], [2, 2]], dtype))
    assert not faults.any


def test_bools_feed_bool_and_number_tensors():
    column = pa.array([True, False, True])
    for dtype in ("bool", "float32", "int64"):
        groups, _ = encode(batch(a=column, b=column), numbers(dtype, "ab"))
        np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, 1], [0, 0], [1, 1]], dtype))


def test_half_and_byte_tensors_are_accepted_by_onnx_runtime():
    for dtype in ("float16", "uint8"):
        groups, _ = encode(batch(a=pa.array([1, 2], pa.int16())), numbers(dtype, "a"))
        assert ort.OrtValue.ortvalue_from_numpy(groups[0].feeds["x"]).shape() == [2, 1]


# -- codes of rows -------------------------------------------------------------------------------------


def test_null_is_a_row_error_by_default():
    groups, faults = encode(batch(a=float32(1, None, 3), b=float32(1, 2, 3)), numbers("float32", "ab"))

    assert codes(faults) == {1: "SPS-ROW-NULL"}
    assert message(faults, 1) == "Expected a value in column 'a', got null"
    np.testing.assert_array_equal(groups[0].rows, [0, 2])
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, 1], [3, 3]], np.float32))


def test_null_can_be_nan_even_where_nan_in_the_data_is_an_error():
    groups, faults = encode(batch(a=float32(1, None, NAN)), numbers("float32", "a", null="nan", nan="error"))

    assert codes(faults) == {2: "SPS-ROW-NAN"}
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1], [NAN]], np.float32))


def test_null_can_be_filled_even_outside_the_range():
    groups, faults = encode(
        batch(a=pa.array([5, None, 50])), numbers("int64", "a", null="fill", fill=-1, range=(0, 10))
    )

    assert codes(faults) == {2: "SPS-ROW-RANGE"}
    np.testing.assert_array_equal(groups[0].feeds["x"], [[5], [-1]])


def test_a_null_bool_can_be_filled():
    groups, _ = encode(batch(a=pa.array([None, False])), numbers("bool", "a", null="fill", fill=True))
    np.testing.assert_array_equal(groups[0].feeds["x"], [[True], [False]])


def test_nan_is_allowed_by_default_and_an_error_on_demand():
    cells = batch(a=float32(1, NAN), b=float32(1, 2))

    assert not encode(cells, numbers("float32", "ab"))[1].any
    _, faults = encode(cells, numbers("float32", "ab", nan="error"))
    assert codes(faults) == {1: "SPS-ROW-NAN"}
    assert message(faults, 1) == "Expected a number in column 'a', got NaN"


def test_infinity_is_an_error_by_default_and_allowed_on_demand():
    cells = batch(a=float32(1, 2, -INF), b=float32(1, INF, 2))

    _, faults = encode(cells, numbers("float32", "ab"))
    assert codes(faults) == {1: "SPS-ROW-INF", 2: "SPS-ROW-INF"}
    assert message(faults, 1) == "Expected a finite number in column 'b', got infinity"
    assert not encode(cells, numbers("float32", "ab", inf="allow"))[1].any


def test_a_double_that_overflows_to_infinity_is_out_of_range_and_infinity_in_the_data_is_infinity():
    cells = batch(a=pa.array([1e39, INF, 1.0]))

    _, faults = encode(cells, numbers("float32", "a"))
    assert codes(faults) == {0: "SPS-ROW-RANGE", 1: "SPS-ROW-INF"}
    assert message(faults, 0) == "Expected a value in column 'a' that fits float32, got one that does not"
    _, faults = encode(cells, numbers("float32", "a", inf="allow"))
    assert codes(faults) == {0: "SPS-ROW-RANGE"}


@pytest.mark.parametrize(
    ("column", "dtype", "bad"),
    [
        (pa.array([0, 255, 256, -1], pa.int32()), "uint8", [2, 3]),
        (pa.array([127, 128, -128, -129], pa.int64()), "int8", [1, 3]),
        (pa.array([0, 2**63 - 1, 2**63, 5], pa.uint64()), "int64", [2]),
        (pa.array([0, -1, 2**62, 5], pa.int64()), "uint64", [1]),
        (pa.array([1, 65504, 70000, 0], pa.int32()), "float16", [2]),
        (pa.array([1.0, 65504.0, 70000.0, 0], pa.float32()), "float16", [2]),
    ],
)
def test_a_value_that_does_not_fit_the_tensor_is_out_of_range(column, dtype, bad):
    _, faults = encode(batch(a=column), numbers(dtype, "a"))
    assert codes(faults) == dict.fromkeys(bad, "SPS-ROW-RANGE")


def test_a_declared_range_holds_its_bounds_and_lets_nan_pass():
    cells = batch(a=pa.array([0.0, 1.0, 1.5, -0.1, NAN]))

    _, faults = encode(cells, numbers("float32", "a", range=(0, 1)))

    assert codes(faults) == {2: "SPS-ROW-RANGE", 3: "SPS-ROW-RANGE"}
    assert message(faults, 2) == "Expected a value within [0, 1] in column 'a', got one outside"
    _, faults = encode(cells, numbers("float32", "a", range=(None, 1)))
    assert codes(faults) == {2: "SPS-ROW-RANGE"}


def test_messages_never_hold_a_value():
    cells = batch(a=pa.array([1e39, 424242.5]))
    _, faults = encode(cells, numbers("float32", "a", range=(0, 1)))
    assert not any("424242" in message(faults, row) or "e+39" in message(faults, row) for row in codes(faults))


def test_each_column_and_row_is_judged_alone_in_a_batch_of_many_faults():
    cells = batch(a=float32(1, None, 3, INF, 5), b=pa.array([1.0, 2.0, 1e300, 4.0, 5.0]))

    groups, faults = encode(cells, numbers("float32", "ab"))

    assert codes(faults) == {1: "SPS-ROW-NULL", 2: "SPS-ROW-RANGE", 3: "SPS-ROW-INF"}
    np.testing.assert_array_equal(groups[0].rows, [0, 4])
    np.testing.assert_array_equal(groups[0].feeds["x"], np.array([[1, 1], [5, 5]], np.float32))


def test_rows_marked_before_are_left_out_and_a_batch_of_bad_rows_gives_no_group():
    faults = Faults(2)
    faults.add([0], "SPS-ROW-DECODE", "a malformed line", "read")
    one = encoder(numbers("float32", "a"))

    assert one.encode(batch(a=float32(1, 2)), faults, Tally())[0].rows.tolist() == [1]
    faults.add([1], "SPS-ROW-NULL", "")
    assert one.encode(batch(a=float32(1, 2)), faults, Tally()) == []


def test_an_empty_batch_gives_no_group():
    assert encode(batch(a=float32()), numbers("float32", "a"))[0] == []


# -- strings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_string_tensors_are_fed_from_every_string_type(kind):
    groups, _ = encode(
        batch(a=pa.array(["x", "yé"], kind), b=pa.array(["", "z"]).dictionary_encode()), numbers("str", "ab")
    )
    assert groups[0].feeds["x"].tolist() == [["x", ""], ["yé", "z"]]


def test_a_null_string_is_an_error_or_filled():
    cells = batch(a=pa.array(["x", None]))
    assert codes(encode(cells, numbers("str", "a"))[1]) == {1: "SPS-ROW-NULL"}
    groups, _ = encode(cells, numbers("str", "a", null="fill", fill="none"))
    assert groups[0].feeds["x"].tolist() == [["x"], ["none"]]


def test_text_that_is_not_utf8_is_a_decode_error_of_its_row():
    raw = pa.array([b"ok", b"\xff\xfe", None], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())

    groups, faults = encode(batch(a=broken), numbers("str", "a", null="fill", fill="-"))

    assert codes(faults) == {1: "SPS-ROW-DECODE"}
    assert faults.get(1).stage == "decode"
    assert message(faults, 1) == "Expected UTF-8 text in column 'a', got bytes that are not"
    assert groups[0].feeds["x"].tolist() == [["ok"], ["-"]]


def test_a_string_larger_than_max_bytes_is_refused():
    _, faults = encode(
        batch(a=pa.array(["x" * 10, "y" * 11, None])), numbers("str", "a", null="fill", fill="", max_bytes=10)
    )
    assert codes(faults) == {1: "SPS-ROW-BYTES"}
    assert message(faults, 1) == "Expected at most 10 bytes in a cell of column 'a', got more"


def test_missing_defaults_are_those_of_the_pipeline_file():
    assert Missing() == Missing(null="error", nan="allow", inf="error", max_bytes=16 * 1024**2)
