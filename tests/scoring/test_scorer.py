"""Every row in comes out once and in order, good or with its fault, whatever the path."""

from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkscore.errors import SparkscoreError
from sparkscore.runtime.session import open_session
from sparkscore.scoring.scorer import Scorer, open_scorer, result_schema
from sparkscore.spec.scoring import (
    BLOCK_COL,
    CORRUPT_COL,
    DROPPED_COL,
    FILE_COL,
    ROW_COL,
    ErrorPlan,
    InputPlan,
    Missing,
    Numbers,
    OutputPlan,
    ScoringPlan,
    SessionPlan,
    Tensor,
)
from tests.scoring import graphs

X = (InputPlan("x", "float32", (2,), (Numbers(("a", "b"), Missing(nan="error")),)),)
Y = (OutputPlan("y", "y", "float32", 0, index="[:, 0]"),)
FLAT_Y = (OutputPlan("y", "y", "float32", 0),)
INDEX = (InputPlan("i", "int64", (), (Numbers(("i",)),)),)
ROOT = (InputPlan("x", "float32", (), (Numbers(("a",)),)),)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Pinned references of the small models, by the name of their function."""
    root = tmp_path_factory.mktemp("models")
    made = {name: getattr(graphs, name)() for name in ("lookup", "endless", "always_raising", "batch_mean", "total")}
    made |= {name: getattr(graphs, name)() for name in ("root", "first_row_only", "bare", "text_length", "linear")}
    made |= {"pairs": graphs.pairs(), "linear_4": graphs.linear(batch=4), "linear_1": graphs.linear(batch=1)}
    return {name: graphs.write(root / name, model) for name, model in made.items()}


def batch(**columns):
    return pa.RecordBatch.from_pydict(columns)


def numbers(n, start=0):
    i = np.arange(start, start + n)
    return {"id": pa.array(i), "a": pa.array(i, pa.float32()), "b": pa.array(i * 2, pa.float32())}


def indices(values):
    return batch(id=pa.array(range(len(values)), pa.int64()), i=pa.array(values, pa.int64()))


def linear_plan(models, model="linear", **settings_):
    return ScoringPlan(models[model], X, Y, ("id",), **settings_)


def lookup_plan(models, **settings_):
    return ScoringPlan(models["lookup"], INDEX, FLAT_Y, ("id",), **settings_)


def run(plan, *batches, scorer=None):
    scorer = scorer or open_scorer(plan)
    found = list(scorer.score(batches))
    table = pa.Table.from_batches(found, result_schema(plan, batches[0].schema))
    return table, scorer


def errors_of(table):
    return {row["id"]: row["err"] for row in table.to_pylist() if row["err"] is not None}


def code_of(plan, *batches):
    with pytest.raises(SparkscoreError) as caught:
        run(plan, *batches)
    return caught.value.code


# -- good rows -------------------------------------------------------------------------------------------


def test_good_rows_are_scored_in_one_call_and_counted(models):
    table, scorer = run(linear_plan(models), batch(**numbers(1000)))
    assert table.column_names == ["id", "y", "err"]
    assert table["y"].to_pylist() == [i + 4 * i + 0.5 for i in range(1000)]
    assert table["err"].null_count == 1000
    counts = scorer.counts
    assert (counts.rows_in, counts.rows_ok, counts.rows_bad, counts.rows_scored) == (1000, 1000, 0, 1000)
    assert (counts.model_calls, counts.bisect_calls, counts.rows_called) == (1, 0, 1000)
    assert counts.model_ms > 0


def test_kept_columns_pass_through_on_their_own_memory(models):
    rows = batch(**numbers(100))
    (found,) = open_scorer(linear_plan(models)).score([rows])
    assert found.column("id").buffers()[1].address == rows.column("id").buffers()[1].address


def test_the_result_has_the_promised_schema(models):
    plan = linear_plan(models)
    rows = batch(**numbers(3))
    (found,) = open_scorer(plan).score([rows])
    assert found.schema.equals(result_schema(plan, rows.schema))


def test_no_batches_and_empty_batches_give_nothing_and_count_nothing(models):
    empty = batch(**numbers(0))
    assert list(open_scorer(linear_plan(models)).score([])) == []
    table, scorer = run(linear_plan(models), empty, empty)
    assert (table.num_rows, scorer.counts.rows_in, scorer.counts.model_calls) == (0, 0, 0)


def test_short_batches_are_merged_and_long_ones_cut_to_the_batch_size(models):
    plan = linear_plan(models, batch_size=256)
    table, scorer = run(plan, *(batch(**numbers(100, 100 * i)) for i in range(5)))
    assert table["id"].to_pylist() == list(range(500))
    assert scorer.counts.model_calls == 2


@pytest.mark.parametrize("n", [1, 4, 5, 10])
def test_a_fixed_batch_axis_is_filled_up_with_the_last_row_and_cut_again(models, n):
    table, scorer = run(linear_plan(models, "linear_4", fixed_batch=4), batch(**numbers(n)))
    assert table["y"].to_pylist() == [5 * i + 0.5 for i in range(n)]
    assert scorer.counts.model_calls == -(-n // 4)
    assert scorer.counts.rows_called == n


def test_a_graph_of_one_row_a_call_is_called_for_each_row(models):
    table, scorer = run(linear_plan(models, "linear_1", fixed_batch=1), batch(**numbers(10)))
    assert table["y"].to_pylist() == [5 * i + 0.5 for i in range(10)]
    assert scorer.counts.model_calls == 10


def test_a_graph_without_an_axis_for_rows_takes_the_row_itself(models):
    plan = ScoringPlan(
        models["bare"],
        (InputPlan("x", "float32", (3,), (Numbers(("a", "b", "id")),)),),
        (OutputPlan("y", "y", "float32", 1),),
        ("id",),
        fixed_batch=1,
    )
    table, _ = run(plan, batch(**numbers(3)))
    assert table["y"].to_pylist() == [[0, 0, 0], [2, 4, 2], [4, 8, 4]]


def test_rows_of_other_shapes_are_scored_apart_and_come_out_in_order(models):
    plan = ScoringPlan(
        models["total"],
        (InputPlan("v", "float32", (None,), (Tensor(("v",), shape=(None,)),)),),
        FLAT_Y,
        ("id",),
    )
    values = [[1.0], [1.0, 2.0], [5.0], None, [1.0, 1.0, 1.0], [2.0, 2.0]]
    rows = batch(id=list(range(6)), v=pa.array(values, pa.list_(pa.float32())))
    table, scorer = run(plan, rows)
    assert table["y"].to_pylist() == [1, 3, 5, None, 3, 4]
    assert errors_of(table).keys() == {3}
    assert scorer.counts.model_calls == 3


# -- bad rows --------------------------------------------------------------------------------------------


def pre_bad(kind, bad, n):
    a = np.arange(n, dtype=np.float64) % 100
    mask = np.isin(np.arange(n), list(bad))
    missing = Missing(nan="error", range=(-1e6, 1e6))
    a[mask] = {"SPS-ROW-NULL": 0, "SPS-ROW-NAN": np.nan, "SPS-ROW-INF": np.inf, "SPS-ROW-RANGE": 5e6}[kind]
    column = pa.array(a, pa.float32(), mask=mask if kind == "SPS-ROW-NULL" else None, from_pandas=False)
    return (InputPlan("x", "float32", (2,), (Numbers(("a", "b"), missing),)),), column


@pytest.mark.parametrize("k", [0, 1, 5, 100, 1_000, 10_000])
@pytest.mark.parametrize("kind", ["SPS-ROW-NULL", "SPS-ROW-NAN", "SPS-ROW-INF", "SPS-ROW-RANGE"])
def test_of_ten_thousand_rows_exactly_the_bad_ones_are_errors_before_the_model(models, kind, k):
    bad = set(np.random.default_rng(k).choice(10_000, k, replace=False).tolist())
    inputs, a = pre_bad(kind, bad, 10_000)
    plan = ScoringPlan(models["linear"], inputs, Y, ("id",))
    rows = batch(**{**numbers(10_000), "a": a})
    table, scorer = run(plan, rows)
    found = errors_of(table)
    assert set(found) == bad
    assert {err["error_code"] for err in found.values()} <= {kind}
    assert table["id"].to_pylist() == list(range(10_000))
    assert [i for i, y in enumerate(table["y"].to_pylist()) if y is None] == sorted(bad)
    assert scorer.counts.rows_scored == 10_000 - k


@pytest.mark.parametrize("k", [0, 1, 5, 100, 1_000, 10_000])
def test_of_ten_thousand_rows_exactly_those_on_which_the_model_raises_are_errors(models, k):
    """Also all of them: the model still scores its warm-up input, so it is the rows that are at fault."""
    bad = set(np.random.default_rng(k).choice(10_000, k, replace=False).tolist())
    values = [99_999 if i in bad else i % 1000 for i in range(10_000)]
    table, scorer = run(lookup_plan(models), indices(values))
    found = errors_of(table)
    assert set(found) == bad
    good = [i for i in range(10_000) if i not in bad]
    assert table["y"].take(pa.array(good, pa.int64())).to_pylist() == [i % 1000 * 10 for i in good]
    assert scorer.counts.rows_scored == 10_000
    for err in list(found.values())[:10]:
        assert (err["stage"], err["error_code"], err["error_type"]) == ("infer", "SPS-ROW-MODEL", "InvalidArgument")
        assert err["batch_rows"] in (8192, 10_000 - 8192, 10_000)
        assert err["tries"] >= 2


def test_ten_thousand_rows_on_a_model_that_raises_on_everything_are_the_model_s_fault(models):
    plan = ScoringPlan(models["always_raising"], X, (OutputPlan("y", "y", "float32", 1),), ("id",))
    scorer = open_scorer(plan)
    with pytest.raises(SparkscoreError) as caught:
        run(plan, batch(**numbers(10_000)), scorer=scorer)
    assert caught.value.code == "SPS-MODEL-RUN"
    assert scorer.counts.model_calls <= 5


def test_a_model_s_message_carries_no_value_of_the_row(models):
    table, _ = run(lookup_plan(models), indices([1, 987_654, 2]))
    err = errors_of(table)[1]
    assert "INVALID_ARGUMENT" in err["error_message"]
    assert "look up" in err["error_message"]
    assert "987" not in json.dumps({**err, "payload_sha256": ""}, default=str)


def test_a_string_that_the_model_cannot_read_is_not_in_its_message(models):
    plan = ScoringPlan(models["text_length"], (InputPlan("s", "str", (), (Numbers(("s",)),)),), FLAT_Y, ("id",))
    table, _ = run(plan, batch(id=[0, 1, 2], s=["1.5", "stodgy secret", "2"]))
    assert table["y"].to_pylist() == [1.5, None, 2]
    assert "secret" not in errors_of(table)[1]["error_message"]


def test_a_row_that_hangs_the_model_is_quarantined_and_the_rest_is_scored(models):
    plan = ScoringPlan(models["endless"], ROOT, FLAT_Y, ("id",), on_error=ErrorPlan(batch_timeout_s=0.3))
    rows = batch(id=list(range(8)), a=pa.array([-1, -2, -3, -4, -5, 6, -7, -8], pa.float32()))
    table, _ = run(plan, rows)
    assert table["y"].to_pylist() == [-1, -2, -3, -4, -5, None, -7, -8]
    err = errors_of(table)[5]
    assert (err["error_code"], err["error_class"], err["error_type"]) == ("SPS-ROW-TIMEOUT", "P8", "CallTimeout")


def test_an_output_that_is_not_finite_is_an_error_after_the_model(models):
    plan = ScoringPlan(models["root"], ROOT, FLAT_Y, ("id",))
    table, scorer = run(plan, batch(id=[0, 1, 2], a=pa.array([4, -1, 9], pa.float32())))
    assert table["y"].to_pylist() == [2, None, 3]
    err = errors_of(table)[1]
    assert (err["stage"], err["error_code"], err["error_class"]) == ("post", "SPS-ROW-OUTPUT", "O4")
    assert (err["batch_rows"], err["tries"]) == (3, 1)
    assert scorer.counts.rows_bad == 1


def test_a_bad_output_nulls_the_row_s_other_outputs_too(models):
    outputs = (OutputPlan("y", "y", "float32", 0), OutputPlan("z", "y", "float32", 0, allow_nan=True))
    table, _ = run(
        ScoringPlan(models["root"], ROOT, outputs, ("id",)), batch(id=[0, 1], a=pa.array([4, -1], pa.float32()))
    )
    assert table["z"].to_pylist() == [2, None]


def test_an_output_of_another_length_fails_the_task(models):
    plan = ScoringPlan(models["first_row_only"], X, (OutputPlan("y", "y", "float32", 1),), ("id",))
    assert code_of(plan, batch(**numbers(10))) == "SPS-MODEL-OUTPUT"


def test_a_malformed_line_is_an_error_of_its_reading_whatever_its_cells_hold(models):
    rows = batch(
        id=[0, 1, 2],
        a=pa.array([1, None, 3], pa.float32()),
        b=pa.array([1, None, 3], pa.float32()),
        **{CORRUPT_COL: pa.array([None, "1,x,,", None]), FILE_COL: ["f"] * 3, BLOCK_COL: [0] * 3},
    )
    table, _ = run(linear_plan(models, payload="plain"), rows)
    err = errors_of(table)[1]
    assert (err["stage"], err["error_code"], err["source_pointer"]) == ("read", "SPS-ROW-DECODE", "f#0+1")
    assert json.loads(err["payload"])[CORRUPT_COL] == "1,x,,"


def test_rows_that_a_step_dropped_are_counted_by_step_and_do_not_come_out(models):
    dropped = pa.array([None, 0, 2, 2, None], pa.int32())
    table, scorer = run(linear_plan(models), batch(**numbers(5), **{DROPPED_COL: dropped}))
    assert table["id"].to_pylist() == [0, 4]
    counts = scorer.counts
    assert (counts.rows_in, counts.rows_ok, counts.rows_filtered, counts.rows_scored) == (5, 2, {0: 1, 2: 2}, 2)


def test_a_batch_of_only_dropped_rows_gives_nothing_and_is_counted(models):
    dropped = pa.array([1, 1], pa.int32())
    table, scorer = run(linear_plan(models), batch(**numbers(2), **{DROPPED_COL: dropped}))
    assert (table.num_rows, scorer.counts.rows_filtered) == (0, {1: 2})


# -- addresses and payloads ------------------------------------------------------------------------------


def test_a_row_is_addressed_by_file_and_index(models):
    values = [1, 5000, 2]
    rows = indices(values)
    rows = rows.append_column(FILE_COL, pa.array(["s3://b/f.parquet"] * 3)).append_column(ROW_COL, pa.array([7, 8, 9]))
    table, scorer = run(lookup_plan(models), rows)
    assert errors_of(table)[1]["source_pointer"] == "s3://b/f.parquet#8"
    (sample,) = scorer.counts.error_samples
    assert (sample.pointer, sample.code, sample.error_class) == ("s3://b/f.parquet#8", "SPS-ROW-MODEL", "O3")


def test_a_row_without_an_index_is_addressed_by_its_place_in_the_block_dropped_rows_counted(models):
    def part(ids, files, blocks, values, dropped):
        columns = {"id": ids, "i": pa.array(values, pa.int64()), FILE_COL: files, BLOCK_COL: blocks}
        return batch(**columns, **{DROPPED_COL: pa.array(dropped, pa.int32())})

    first = part([0, 1, 2, 3], ["f", "f", "f", "g"], [0, 0, 64, 0], [9999, 1, 9999, 1], [None, None, None, None])
    second = part([4, 5, 6], ["g", "g", "g"], [0, 0, 0], [1, 9999, 9999], [0, None, None])
    table, _ = run(lookup_plan(models), first, second)
    found = {row: err["source_pointer"] for row, err in errors_of(table).items()}
    assert found == {0: "f#0+0", 2: "f#64+0", 5: "g#0+2", 6: "g#0+3"}


def test_a_row_of_a_source_without_addresses_has_none(models):
    assert errors_of(run(lookup_plan(models), indices([9999, 1]))[0])[0]["source_pointer"] is None


def test_every_row_carries_its_address_where_rows_have_no_keys(models):
    rows = indices([1, 2]).append_column(FILE_COL, pa.array(["f", "f"])).append_column(ROW_COL, pa.array([3, 4]))
    table, _ = run(lookup_plan(models, pointers="all"), rows)
    assert table.column_names == ["id", "y", "_ss_pointer", "err"]
    assert table["_ss_pointer"].to_pylist() == ["f#3", "f#4"]


@pytest.mark.parametrize(
    "payload, kept, hashed", [("none", False, False), ("hash", False, True), ("plain", True, True)]
)
def test_the_payload_is_kept_as_asked(models, payload, kept, hashed):
    err = errors_of(run(lookup_plan(models, payload=payload, keys=("id",)), indices([1, 9999]))[0])[1]
    assert (err["payload"] is not None, err["payload_sha256"] is not None) == (kept, hashed)
    if kept:
        assert json.loads(err["payload"]) == {"i": 9999, "id": 1}


def test_equal_content_has_an_equal_hash(models):
    table, _ = run(lookup_plan(models), indices([9999, 9999, 9998]))
    hashes = [err["payload_sha256"] for err in errors_of(table).values()]
    assert hashes[0] == hashes[1] != hashes[2]


# -- policies --------------------------------------------------------------------------------------------


def test_policy_fail_raises_the_code_of_the_first_bad_row_with_its_address(models):
    plan = lookup_plan(models, on_error=ErrorPlan(policy="fail"))
    rows = indices([1, 9999]).append_column(FILE_COL, pa.array(["f", "f"])).append_column(ROW_COL, pa.array([3, 4]))
    with pytest.raises(SparkscoreError, match="f#4") as caught:
        run(plan, rows)
    assert caught.value.code == "SPS-ROW-MODEL"


def test_the_task_ends_when_its_own_bad_rows_break_the_budget_and_not_before(models):
    within, beyond = (lookup_plan(models, on_error=ErrorPlan(max_bad_rows=n)) for n in (2, 1))
    rows = indices([9999, 1, 9999, 2])
    assert len(errors_of(run(within, rows)[0])) == 2
    assert code_of(beyond, rows) == "SPS-BUDGET"


def test_a_broken_budget_names_at_most_twenty_rows(models):
    plan = lookup_plan(models, on_error=ErrorPlan(max_bad_rows=1))
    rows = indices([9999] * 50 + [1])
    rows = rows.append_column(FILE_COL, pa.array(["f"] * 51)).append_column(ROW_COL, pa.array(range(51)))
    with pytest.raises(SparkscoreError) as caught:
        run(plan, rows)
    assert str(caught.value).count("f#") == 20


def all_null(n):
    return batch(id=list(range(n)), a=pa.nulls(n, pa.float32()), b=pa.nulls(n, pa.float32()))


@pytest.mark.parametrize("most, batches, breaks", [(3, 3, False), (3, 4, True), (0, 1, True), (None, 9, False)])
def test_batches_in_a_row_without_a_good_row_are_allowed_up_to_the_limit(models, most, batches, breaks):
    plan = linear_plan(models, on_error=ErrorPlan(max_consecutive_bad_batches=most))
    given_batches = [all_null(8192)] * batches
    if breaks:
        assert code_of(plan, *given_batches) == "SPS-BUDGET"
    else:
        assert run(plan, *given_batches)[1].counts.rows_bad == 8192 * batches


def test_one_good_row_starts_the_count_of_bad_batches_again(models):
    plan = linear_plan(models, on_error=ErrorPlan(max_consecutive_bad_batches=1))
    mixed = pa.concat_batches([all_null(8191).cast(batch(**numbers(1)).schema), batch(**numbers(1))])
    bad = all_null(8192).cast(mixed.schema)
    assert run(plan, bad, mixed, bad, mixed)[1].counts.rows_ok == 2


def test_three_bad_rows_called_one_by_one_are_not_three_bad_batches(models):
    plan = lookup_plan(models, batch_size=1, on_error=ErrorPlan(max_consecutive_bad_batches=1))
    table, scorer = run(plan, indices([9999, 9999, 9999, 1]))
    assert len(errors_of(table)) == 3
    assert scorer.counts.model_calls == 4


# -- batch dependence ------------------------------------------------------------------------------------


MEAN_Y = (OutputPlan("y", "y", "float32", 1),)


def test_a_model_that_mixes_rows_is_refused_before_anything_comes_out(models):
    plan = ScoringPlan(models["batch_mean"], X, MEAN_Y, ("id",), prove_batch=True)
    found = []
    with pytest.raises(SparkscoreError) as caught:
        found.extend(open_scorer(plan).score([batch(**numbers(100))]))
    assert caught.value.code == "SPS-MODEL-BATCH"
    assert found == []


def test_a_model_that_mixes_rows_may_be_scored_row_by_row(models):
    plan = ScoringPlan(models["batch_mean"], X, MEAN_Y, ("id",), prove_batch=True, batch_size=1)
    assert run(plan, batch(**numbers(3)))[0]["y"].to_pylist() == [[0, 0]] * 3


@pytest.mark.parametrize("model, fixed", [("linear", None), ("linear_4", 4)])
def test_an_honest_model_is_proven_once_in_calls_that_are_counted_apart(models, model, fixed):
    plan = linear_plan(models, model, fixed_batch=fixed, prove_batch=True)
    _, scorer = run(plan, batch(**numbers(16)))
    rows = 8 if fixed is None else 4
    assert scorer.counts.proof_calls == rows + 1
    assert scorer.counts.model_calls == (1 if fixed is None else 4)
    assert scorer.counts.rows_called == 16


def test_a_model_that_cannot_score_a_row_alone_is_refused_too(models):
    plan = ScoringPlan(models["pairs"], X, (OutputPlan("y", "y", "float32", 1),), ("id",), prove_batch=True)
    assert code_of(plan, batch(**numbers(10))) == "SPS-MODEL-BATCH"


def test_the_proof_waits_for_rows_that_differ(models):
    same = {"id": [0, 1], "a": pa.array([1, 1], pa.float32()), "b": pa.array([1, 1], pa.float32())}
    plan = ScoringPlan(models["batch_mean"], X, MEAN_Y, ("id",), prove_batch=True, batch_size=2)
    scorer = open_scorer(plan)
    assert len(list(scorer.score([batch(**same)]))) == 1
    assert scorer.counts.proof_calls == 0


# -- properties ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_out_are_the_rows_in_less_the_dropped_ones_in_order_with_the_right_value_or_fault(models, data):
    kinds = data.draw(
        st.lists(st.sampled_from(["good"] * 6 + ["null", "raises", "dropped", "corrupt"]), min_size=1, max_size=300)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(kinds)), max_size=4)))
    size = data.draw(st.sampled_from([None, 1, 7, 64]))
    whole = batch(
        id=pa.array(range(len(kinds)), pa.int64()),
        i=pa.array(
            [{"null": None, "corrupt": None, "raises": 5000}.get(k, n % 1000) for n, k in enumerate(kinds)], pa.int64()
        ),
        **{
            DROPPED_COL: pa.array([0 if k == "dropped" else None for k in kinds], pa.int32()),
            CORRUPT_COL: pa.array(["?" if k == "corrupt" else None for k in kinds], pa.string()),
        },
    )
    edges = [0, *cuts, len(kinds)]
    parts = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    plan = lookup_plan(models, batch_size=size, on_error=ErrorPlan(max_consecutive_bad_batches=None))
    table, scorer = run(plan, *parts)

    kept = [n for n, k in enumerate(kinds) if k != "dropped"]
    codes = {"null": "SPS-ROW-NULL", "raises": "SPS-ROW-MODEL", "corrupt": "SPS-ROW-DECODE"}
    assert table["id"].to_pylist() == kept
    assert table["y"].to_pylist() == [n % 1000 * 10.0 if kinds[n] == "good" else None for n in kept]
    assert [e and e["error_code"] for e in table["err"].to_pylist()] == [codes.get(kinds[n]) for n in kept]
    counts = scorer.counts
    assert counts.rows_in == len(kinds) == counts.rows_ok + counts.rows_bad + sum(counts.rows_filtered.values())
    assert counts.rows_scored == sum(k in ("good", "raises") for k in kinds)


def test_scores_do_not_depend_on_how_the_rows_are_cut(models):
    rows = batch(**numbers(1000))
    whole, _ = run(linear_plan(models), rows)
    cut, _ = run(linear_plan(models, batch_size=7), *(rows.slice(i, 13) for i in range(0, 1000, 13)))
    assert whole.equals(cut.combine_chunks()) or whole.to_pylist() == cut.to_pylist()


def test_a_scorer_can_be_made_from_parts(models):
    plan = linear_plan(models)
    ref = plan.model
    folder = Path(ref.location)
    scorer = Scorer(plan, folder, open_session(ref, plan.session, folder))
    assert run(plan, batch(**numbers(3)), scorer=scorer)[0].num_rows == 3


# -- ahead ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2], ids=["a core", "two cores, so one batch ahead"])
def test_reading_ahead_changes_no_row_and_no_count(models, threads):
    values = [i if i % 97 else 5000 for i in range(1000)]  # the model's table has 1,000 places
    parts = [indices([*values[i : i + 100], None]) for i in range(0, 1000, 100)]
    plan = lookup_plan(models, session=SessionPlan(threads=threads), batch_size=64)
    table, scorer = run(plan, *parts)
    assert scorer._reads_ahead == (threads == 2)
    assert len(table) == 1010
    assert table["y"].to_pylist()[:3] == [None, 10.0, 20.0]
    assert scorer.counts.bad_by_code == {"SPS-ROW-MODEL": 11, "SPS-ROW-NULL": 10}
    assert (scorer.counts.rows_in, scorer.counts.rows_ok, scorer.counts.rows_scored) == (1010, 989, 1000)


def test_what_fails_while_it_is_read_ahead_fails_the_task_and_leaves_no_thread(models):
    def torn():
        yield indices([1] * 9000)  # one batch, and the beginning of the next
        raise OSError("the source is gone")

    plan = lookup_plan(models, session=SessionPlan(threads=2))
    found = open_scorer(plan).score(torn())
    assert next(found)["y"][0].as_py() == 10.0
    with pytest.raises(OSError, match="the source is gone"):
        list(found)
    stopped = open_scorer(plan).score(indices([i] * 8192) for i in range(1000))
    next(stopped)
    stopped.close()
    assert not [t for t in threading.enumerate() if t.name == "sparkscore-ahead"]
