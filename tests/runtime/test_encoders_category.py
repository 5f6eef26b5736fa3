"""Categories become indices: inline or from a file, text or integer, with a policy for unknown values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from sparkscore.errors import ModelError
from sparkscore.spec.scoring import Category, Missing, Numbers
from tests.runtime.plans import batch, codes, encode, encoder, message, tensor

VOCABULARY = ("AA", "B6", "DL")


def category(**settings: object) -> Category:
    missing = Missing(**settings.pop("missing", {}))  # type: ignore[arg-type]
    return Category(("c",), missing, **{"vocabulary": VOCABULARY, **settings})  # type: ignore[arg-type]


def one(dtype: str = "int64", width: int = 1, **settings: object):
    return tensor(dtype, (width,), category(**settings))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_values_become_their_positions_in_the_vocabulary(kind):
    groups, faults = encode(batch(c=pa.array(["DL", "AA", "B6", "AA"]).cast(kind)), one())
    assert groups[0].feeds["x"].tolist() == [[2], [0], [1], [0]]
    assert groups[0].feeds["x"].dtype == np.int64
    assert not faults.any


def test_integers_are_looked_up_as_their_text():
    cells = batch(c=pa.array([30, 7], pa.int16()))
    groups, _ = encode(cells, one(vocabulary=("7", "30")))
    assert groups[0].feeds["x"].tolist() == [[1], [0]]


@pytest.mark.parametrize("encoded", [False, True])
def test_an_unknown_value_is_a_row_error(encoded):
    column = pa.array(["AA", "ZZ", None])
    groups, faults = encode(batch(c=column.dictionary_encode() if encoded else column), one())
    assert codes(faults) == {1: "SPS-ROW-CATEGORY", 2: "SPS-ROW-NULL"}
    assert message(faults, 1) == "Expected a value of the vocabulary in column 'c', got one that it lacks"
    assert groups[0].feeds["x"].tolist() == [[0]]


def test_an_unknown_value_can_have_an_index():
    groups, faults = encode(batch(c=pa.array(["ZZ", "DL"])), one("float32", unknown=3))
    assert groups[0].feeds["x"].tolist() == [[3.0], [2.0]]
    assert not faults.any


def test_null_is_filled_by_a_category_or_becomes_nan():
    cells = batch(c=pa.array([None, "AA"]))
    assert encode(cells, one(missing={"null": "fill", "fill": "DL"}))[0][0].feeds["x"].tolist() == [[2], [0]]
    nan = encode(cells, one("float32", missing={"null": "nan"}))[0][0].feeds["x"]
    np.testing.assert_array_equal(nan, np.array([[np.nan], [0]], np.float32))


def test_one_hot_spreads_the_index_and_the_unknown_one_gets_its_own_column():
    groups, _ = encode(batch(c=pa.array(["DL", "ZZ", "AA"])), one("float32", 4, one_hot=True, unknown=3))
    np.testing.assert_array_equal(groups[0].feeds["x"], np.eye(4, dtype=np.float32)[[2, 3, 0]])


def test_a_category_is_packed_beside_numbers_in_the_order_of_the_parts():
    mixed = tensor("float32", (5,), Numbers(("a",)), category(one_hot=True), Numbers(("b",), Missing(null="nan")))
    cells = batch(a=pa.array([1.5, 2.5]), c=pa.array(["B6", "DL"]), b=pa.array([None, 7]))

    groups, faults = encode(cells, mixed)

    expected = np.array([[1.5, 0, 1, 0, np.nan], [2.5, 0, 0, 1, 7]], np.float32)
    np.testing.assert_array_equal(groups[0].feeds["x"], expected)
    assert not faults.any


def test_a_vocabulary_file_has_one_entry_a_line(tmp_path):
    (tmp_path / "v.txt").write_bytes("AA\r\nB 6\r\nÜ\r\n".encode())
    cells = batch(c=pa.array(["Ü", "B 6"]))
    groups, _ = encode(cells, one(vocabulary=(), vocabulary_file="v.txt"), folder=tmp_path)
    assert groups[0].feeds["x"].tolist() == [[2], [1]]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "empty file"),
        (b"\xff\xfe\xfa", "UnicodeDecodeError"),
        (None, "FileNotFoundError"),
        (b"a\nb\na\n", "'a' twice"),
    ],
)
def test_a_vocabulary_file_that_cannot_be_used_is_the_models_error(tmp_path, content, text):
    if content is not None:
        (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(ModelError, match=text) as caught:
        encoder(one(vocabulary=(), vocabulary_file="v.txt"), folder=tmp_path)
    assert caught.value.code == "SPS-MODEL-ENCODER"
