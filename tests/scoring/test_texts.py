"""Texts are scored in a window sorted by length: little padding, each text once, and every row where it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from sparkscore.runtime.encoders import Group
from sparkscore.scoring.batching import AUTO_TOKENS, micro_batches
from sparkscore.scoring.scorer import open_scorer
from sparkscore.spec.scoring import InputPlan, Numbers, OutputPlan, ScoringPlan, Text
from tests.scoring import graphs
from tests.scoring.test_scorer import errors_of, run

WORDS = 900  # ids up to 899, and one more that the model's table of 900 lacks
UNKNOWN = f"w{WORDS}"
MEAN = (OutputPlan("y", "y", "float32", 0),)


def text_plan(folder, length=None, **settings_) -> ScoringPlan:
    """A plan for texts of up to 64 words; `length` is the graph's own."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS + 1)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = graphs.write(folder, graphs.encoder(length or "t", WORDS))
    parts = {
        "ids": Text(("text",), tokenizer="tokenizer.json", max_tokens=64),
        "mask": Text(("text",), tokenizer="tokenizer.json", max_tokens=64, field="attention_mask"),
    }
    inputs = tuple(InputPlan(name, "int64", (length,), (part,)) for name, part in parts.items())
    return ScoringPlan(model, inputs, MEAN, ("id",), **settings_)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return text_plan(tmp_path_factory.mktemp("encoder"))


def words(lengths, seed=0):
    """Texts of so many words, no two alike by accident."""
    random = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in random.integers(1, WORDS, n)) for n in lengths]


def texts(values):
    return pa.RecordBatch.from_pydict({"id": pa.array(range(len(values)), pa.int64()), "text": pa.array(values)})


def means(values):
    """What the model says of texts, by hand."""
    table = np.sqrt(np.arange(WORDS, dtype=np.float32))
    return [float(np.mean(table[[int(w[1:]) for w in text.split()][:64]])) for text in values]


LOG_NORMAL = np.clip(np.random.default_rng(3).lognormal(np.log(20), 0.8, 10_000), 1, 64).astype(int)


def test_texts_of_log_normal_lengths_are_padded_by_less_than_5_percent_and_stay_in_order(plan):
    values = words(LOG_NORMAL)
    table, scorer = run(plan, texts(values))
    assert table["id"].to_pylist() == list(range(10_000))
    np.testing.assert_allclose(table["y"].to_numpy(), means(values), rtol=1e-5)
    counts = scorer.counts
    assert counts.tokens == LOG_NORMAL.sum()  # ids and mask are one text
    assert 1 < counts.tokens_computed / counts.tokens <= 1.05
    assert counts.rows_scored == counts.rows_called == 10_000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 70), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_a_row_scores_the_same_wherever_it_stands_and_alone(plan, lengths, random):
    values = [text or "w1" for text in words(lengths)]
    order = random.sample(range(len(values)), len(values))
    scorer = open_scorer(plan)
    (table,) = scorer.score([texts(values)])
    (moved,) = open_scorer(plan).score([texts([values[i] for i in order])])
    np.testing.assert_allclose(moved["y"].to_numpy(), table["y"].to_numpy()[order], rtol=1e-6)
    alone = [run(plan, texts([value]))[0]["y"][0].as_py() for value in values[:5]]
    np.testing.assert_allclose(table["y"].to_numpy()[:5], alone, rtol=1e-6)


def test_an_empty_text_and_one_that_is_cut_are_rows_like_others(plan):
    values = ["", *words([64, 65, 1])]
    table, scorer = run(replace(plan, outputs=(replace(MEAN[0], allow_nan=True),)), texts(values))
    assert np.isnan(table["y"][0].as_py())  # the mean of no words
    np.testing.assert_allclose(table["y"].to_numpy()[1:], means(values[1:]), rtol=1e-5)
    assert scorer.counts.rows_truncated == 1


def test_a_text_that_many_rows_have_is_scored_once(plan):
    values = words([5, 9, 9]) * 100
    table, scorer = run(plan, texts(values))
    np.testing.assert_allclose(table["y"].to_numpy(), means(values), rtol=1e-5)
    assert (scorer.counts.rows_ok, scorer.counts.rows_scored) == (300, 3)


def test_what_is_wrong_with_a_text_is_wrong_with_each_row_that_has_it(plan):
    good, other = words([7, 3])
    raises, overflows = f"w5 {UNKNOWN}", "w0"  # an id outside the table; a score below the range
    outputs = (replace(MEAN[0], range=(0.5, None)),)
    values = [good, raises, overflows, good, raises, other, raises, overflows, None]
    table, scorer = run(replace(plan, outputs=outputs), texts(values))
    errors = errors_of(table)
    assert {row: error["error_code"] for row, error in errors.items()} == {
        **dict.fromkeys((1, 4, 6), "SPS-ROW-MODEL"),
        **dict.fromkeys((2, 7), "SPS-ROW-OUTPUT"),
        8: "SPS-ROW-NULL",
    }
    assert errors[1]["tries"] == errors[6]["tries"] > 1
    assert table["y"].is_valid().to_pylist() == [True, False, False, True, False, True, False, False, False]
    assert scorer.counts.bad_by_code == {"SPS-ROW-MODEL": 3, "SPS-ROW-OUTPUT": 2, "SPS-ROW-NULL": 1}


def test_rows_of_only_bad_texts_are_all_bad(plan):
    table, _ = run(plan, texts(words([3])), texts([UNKNOWN] * 20))
    assert set(errors_of(table)) == set(range(20))
    assert len(table) == 21


def test_rows_of_one_text_that_differ_in_another_input_are_two(tmp_path):
    nodes = [graphs.helper.make_node("Cast", ["ids"], ["f"], to=graphs.FLOAT)]
    nodes += [graphs.helper.make_node("ReduceSum", ["f", "one"], ["s"], keepdims=0)]
    nodes += [graphs.helper.make_node("Add", ["s", "x"], ["y"])]
    inputs = [("ids", graphs.INT64, ["n", "t"]), ("x", graphs.FLOAT, ["n"])]
    model = graphs.graph(nodes, inputs, [("y", graphs.FLOAT, ["n"])], [("one", np.array([1]))])
    base = text_plan(tmp_path / "m")
    plan = ScoringPlan(
        graphs.write(tmp_path / "m", model),
        (base.inputs[0], InputPlan("x", "float32", (), (Numbers(("x",)),))),
        MEAN,
        ("id",),
    )
    data = texts(["w3", "w1 w1", "w3"]).append_column("x", pa.array([10, 20, 30], pa.float32()))
    assert run(plan, data)[0]["y"].to_pylist() == [13, 22, 33]


def test_a_batch_size_cuts_the_sorted_window_into_calls_of_that_many_rows(plan):
    table, scorer = run(replace(plan, batch_size=256), texts(words(LOG_NORMAL[:500])))
    assert (scorer.counts.model_calls, scorer.counts.rows_called) == (2, 500)
    np.testing.assert_allclose(table["y"].to_numpy(), means(words(LOG_NORMAL[:500])), rtol=1e-5)


def test_a_graph_of_one_length_is_called_with_it_and_says_what_that_costs(tmp_path):
    values = words(LOG_NORMAL[:1000])
    table, scorer = run(text_plan(tmp_path / "fixed", 64), texts(values))
    np.testing.assert_allclose(table["y"].to_numpy(), means(values), rtol=1e-5)
    assert scorer.counts.tokens_computed == 1000 * 64
    assert scorer.counts.model_calls == -(-1000 * 64 // AUTO_TOKENS)


def test_a_result_a_token_has_the_length_of_its_call(plan):
    values = words([3, 40, 3])
    table, _ = run(replace(plan, outputs=(OutputPlan("each", "each", "float32", 1),)), texts(values))
    found = table["each"].to_pylist()
    assert [len(row) for row in found] == [40, 40, 40]  # fewer than 8 rows are one call
    np.testing.assert_allclose(found[0][:3], np.sqrt([int(w[1:]) for w in values[0].split()]), rtol=1e-6)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=300), st.one_of(st.none(), st.integers(1, 40)))
def test_calls_hold_each_row_once_within_budget_and_spread(lengths, rows):
    none = np.empty(0, np.int64)
    found = np.array(lengths, np.int64)
    group = Group(np.arange(len(found)), lambda part: {"ids": part}, found, (none, none))
    fed = list(micro_batches(group, rows, 100))
    assert all(len(part) == most for part, _, most in fed)
    calls = [part for part, _, _ in fed]
    assert sorted(np.concatenate(calls).tolist()) == list(range(len(found)))
    for part in calls:
        longest, shortest = found[part].max(), found[part].min()
        assert len(part) <= (rows or 100)
        if rows is None:
            assert len(part) == 1 or len(part) * longest <= AUTO_TOKENS
            assert len(part) <= 8 or longest <= 1.1 * shortest
    if rows:
        assert all(len(part) == rows for part in calls[:-1])
