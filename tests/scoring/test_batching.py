"""Batches are cut and merged without losing, repeating or moving a row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkscore.runtime.encoders import Group
from sparkscore.runtime.providers import CPU, CUDA
from sparkscore.scoring.batching import auto_rows, call_rows, micro_batches, most_rows, rebatch
from sparkscore.spec.scoring import Image, InputPlan, ModelRef, Numbers, OutputPlan, ScoringPlan, Tensor, Text


def batches(lengths):
    start, found = 0, []
    for length in lengths:
        found.append(pa.RecordBatch.from_pydict({"i": pa.array(range(start, start + length), pa.int64())}))
        start += length
    return found


def lengths_of(found):
    return [batch.num_rows for batch in found]


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 30), st.sampled_from([1.0, 1.25]))
def test_every_row_comes_out_once_and_in_order(lengths, rows, slack):
    found = list(rebatch(batches(lengths), rows, slack))
    assert [i for batch in found for i in batch.column("i").to_pylist()] == list(range(sum(lengths)))
    assert all(0 < n <= rows * slack for n in lengths_of(found))


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 30))
def test_with_exact_lengths_only_the_last_batch_is_short(lengths, rows):
    assert all(n == rows for n in lengths_of(rebatch(batches(lengths), rows, 1.0))[:-1])


def test_five_batches_of_100_become_256_and_244():
    assert lengths_of(rebatch(batches([100] * 5), 256, 1.0)) == [256, 244]


def test_a_batch_of_spark_s_10_000_rows_passes_as_it_is_where_8_192_are_aimed_at():
    given_batches = batches([10_000, 10_000])
    found = list(rebatch(given_batches, 8192))
    assert lengths_of(found) == [10_000, 10_000]
    assert found[0].column("i").buffers()[1].address == given_batches[0].column("i").buffers()[1].address


def test_a_longer_batch_passes_as_it_is_where_so_many_rows_may_and_short_ones_are_merged_no_further():
    assert lengths_of(rebatch(batches([65_536, 70, 30, 65_537]), 100, most=65_536)) == [65_536, 100, 100, 65_437]


def test_large_rows_behind_small_ones_are_taken_64_mib_at_a_time():
    cells = [b"x"] * 100 + [bytes(1 << 20)] * 200
    rows = pa.record_batch([pa.array(cells), pa.array(range(300))], names=["v", "i"])
    found = list(rebatch([rows.slice(0, 100), rows.slice(100, 120), rows.slice(220)], 8192))
    assert max(batch.nbytes for batch in found) < 70 << 20
    assert [i for batch in found for i in batch.column("i").to_pylist()] == list(range(300))


def test_a_cut_batch_is_a_slice_of_the_same_memory():
    (batch,) = batches([100])
    addresses = {part.column("i").buffers()[1].address for part in rebatch([batch], 30, 1.0)}
    assert addresses == {batch.column("i").buffers()[1].address}


def plan(*inputs):
    return ScoringPlan(ModelRef("m", "1", "0", "", "m.onnx", ()), inputs, (), ())


SAMPLE = pa.RecordBatch.from_pydict({"v": [[0.0] * 4096] * 4, "a": [1.0] * 4})


@pytest.mark.parametrize(
    "entry, rows",
    [
        (InputPlan("x", "float32", (1,), (Numbers(("a",)),)), 8192),
        (InputPlan("x", "float32", (1024,), (Tensor(("w",), shape=(1024,)),)), 2048),
        (InputPlan("x", "float32", (3, 224, 224), (Image(("jpeg",)),)), 13),
        (InputPlan("x", "uint8", (None, None, 3), (Image(("jpeg",), size=(224, 224)),)), 55),
        (InputPlan("x", "float32", (3, 4096, 4096), (Tensor(("w",), shape=(3, 4096, 4096)),)), 1),
        (InputPlan("x", "float64", (None,), (Tensor(("v",), shape=(None,)),)), 255),
        (InputPlan("ids", "int64", (None,), (Text(("t",), max_tokens=512),)), 8192),
    ],
    ids=["narrow", "vector", "image", "free image", "huge", "free axis from the data", "text"],
)
def test_the_automatic_size_is_8_192_rows_and_less_for_wide_ones(entry, rows):
    assert auto_rows(plan(entry), SAMPLE) == rows


@pytest.mark.parametrize(
    "model_bytes, provider, rows",
    [(2**20 - 1, CPU, 8192), (2**20, CPU, 1024), (2**30, CUDA, 8192)],
    ids=["small", "large", "large, on a GPU"],
)
def test_a_large_model_is_called_with_1_024_rows_on_a_cpu(model_bytes, provider, rows):
    assert call_rows(8192, model_bytes, provider) == rows
    assert call_rows(13, model_bytes, provider) == 13  # images


NUMBERS = InputPlan("x", "float32", (30,), (Numbers(tuple("a" * 30)),))
NUMBER, VECTOR = OutputPlan("p", "p", "float32", 0), OutputPlan("p", "p", "float32", 1)


@pytest.mark.parametrize(
    "entry, output, model_bytes, provider, rows",
    [
        (NUMBERS, NUMBER, 2**20 - 1, CPU, 65_536),
        (NUMBERS, NUMBER, 2**20, CPU, 0),
        (NUMBERS, NUMBER, 2**10, CUDA, 0),
        (NUMBERS, VECTOR, 2**10, CPU, 0),
        (NUMBERS, OutputPlan("p", "p", "top_k:float32", 0), 2**10, CPU, 0),
        (InputPlan("x", "float32", (1024,), (Tensor(("w",), shape=(1024,)),)), NUMBER, 2**10, CPU, 2048),
        (InputPlan("ids", "int64", (None,), (Text(("t",), max_tokens=512),)), NUMBER, 2**10, CPU, 0),
    ],
    ids=["numbers", "large model", "on a GPU", "vectors out", "pairs out", "wide rows", "text"],
)
def test_more_rows_are_encoded_at_once_for_a_small_model_that_gives_numbers(entry, output, model_bytes, provider, rows):
    assert most_rows(replace(plan(entry), outputs=(output,)), SAMPLE, model_bytes, provider) == rows


def test_what_is_scored_at_once_is_called_in_even_parts():
    none = np.empty(0, np.int64)
    feeds = {"x": np.arange(10_000)}
    group = Group(np.arange(10_000), lambda rows: feeds, None, (none, none))
    for rows, about, size in [(None, 8192, 10_000), (None, 4096, 5000), (None, 1024, 1000), (4096, 1024, 4096)]:
        ((part, fed, most),) = micro_batches(group, rows, about)
        assert (len(part), fed["x"] is feeds["x"], most) == (10_000, True, size)
