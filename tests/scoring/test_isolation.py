"""Rows that make a model call fail are found, blamed alone, and at a bounded cost."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkscore.errors import SparkscoreError
from sparkscore.runtime.watchdog import CallTimeout
from sparkscore.scoring.counts import Counts
from sparkscore.scoring.isolation import Isolation

GOOD = {"x": np.array([-1.0])}


class Model:
    """A call at the seam: doubles x, and raises if a bad row is in the batch."""

    def __init__(self, bad=(), error=RuntimeError, *, fits=None, together=(), broken=False):
        self.bad = np.array(sorted(bad), dtype=float)
        self.error, self.fits, self.together, self.broken = error, fits, set(together), broken
        self.calls = []
        self.timeouts = []

    def __call__(self, feeds, timeout_s):
        x = feeds["x"]
        self.calls.append(len(x))
        self.timeouts.append(timeout_s)
        if self.broken:
            raise RuntimeError("broken")
        if self.fits is not None and len(x) > self.fits:
            raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")
        if self.together and self.together <= set(x.tolist()):
            raise RuntimeError("only together")
        # x is sorted, so a search finds out whether a bad row is inside without a scan
        at = np.searchsorted(self.bad, x[0])
        if at < len(self.bad) and self.bad[at] <= x[-1]:
            raise self.error("bad row")
        return [x * 2]


def rows(n):
    return {"x": np.arange(n, dtype=float)}


def assert_exact(outcome, n, bad):
    assert set(outcome.faults) == set(bad)
    scored = [row for piece, _ in outcome.pieces for row in range(piece.start, piece.stop)]
    values = np.concatenate([o[0] for _, o in outcome.pieces]) if outcome.pieces else np.empty(0)
    assert scored == [i for i in range(n) if i not in set(bad)]
    np.testing.assert_array_equal(values, np.array(scored) * 2.0)


def bound(n, k):
    exact = 2 * k * (math.log2(n / k) + 1) + 1 if k else 1
    return 1.25 * min(exact, n + 1) + 3


@st.composite
def placements(draw):
    n = draw(st.one_of(st.integers(1, 64), st.integers(65, 2048), st.sampled_from([1024, 8192, 10_000])))
    kind = draw(st.sampled_from(["few", "random", "clusters", "mixed"]))
    seed = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bad: set[int] = set()
    if kind == "few":
        bad |= set(seed.choice(n, size=min(n, draw(st.integers(0, 8))), replace=False).tolist())
    if kind in ("random", "mixed"):
        fraction = draw(st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.15, 0.3, 0.5, 0.9, 1.0]))
        bad |= set(np.flatnonzero(seed.random(n) < fraction).tolist())
    if kind in ("clusters", "mixed"):
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, n - 1))
            bad |= set(range(start, min(n, start + draw(st.integers(1, max(1, n // 3))))))
    return n, bad


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(placements())
def test_exactly_the_bad_rows_are_blamed_and_calls_stay_within_the_bound(placement):
    n, bad = placement
    model = Model(bad)
    outcome = Isolation(model, known_good=GOOD).score(rows(n), n)
    assert_exact(outcome, n, bad)
    assert len(model.calls) <= bound(n, len(bad))


def test_a_clean_batch_takes_one_call_and_its_feeds_are_passed_on_uncopied():
    model, feeds, seen = Model(), rows(1000), []
    outcome = Isolation(lambda f, t: seen.append(f["x"]) or model(f, t)).score(feeds, 1000)
    assert_exact(outcome, 1000, ())
    assert model.calls == [1000]
    assert np.shares_memory(seen[0], feeds["x"])


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(placements(), st.sampled_from([1, 7, 100, 1000, 20_000]))
def test_rows_scored_in_several_calls_lose_exactly_the_bad_ones_and_each_call_keeps_its_bound(placement, call_rows):
    n, bad = placement
    model, counts = Model(bad), Counts()
    outcome = Isolation(model, known_good=GOOD, counts=counts).score(rows(n), n, call_rows)
    assert_exact(outcome, n, bad)
    assert max(model.calls) <= call_rows
    starts = range(0, n, call_rows)
    parts = [(min(call_rows, n - start), len(bad & set(range(start, start + call_rows)))) for start in starts]
    assert len(model.calls) <= sum(bound(size, k) if k else 1 for size, k in parts)
    assert (counts.model_calls, counts.rows_called) == (len(model.calls), sum(model.calls))
    assert sum(counts.call_buckets) == len(model.calls)
    largest, tries = outcome.calls_of_rows()
    assert largest.tolist() == [size for size, _ in parts for _ in range(size)]
    assert tries.sum() == sum(call.stop - call.start for call in outcome.calls)


def test_of_several_calls_only_the_one_that_failed_is_searched():
    model, counts = Model({250.0}), Counts()
    outcome = Isolation(model, known_good=GOOD, counts=counts).score(rows(400), 400, 100)
    assert_exact(outcome, 400, {250})
    assert (model.calls[:3], model.calls[-1]) == ([100, 100, 100], 100)
    assert counts.bisect_calls == len(model.calls) - 4
    assert outcome.calls_of_rows()[1][[0, 199, 300, 399]].tolist() == [1, 1, 1, 1]


def test_calls_that_run_out_of_memory_on_their_way_go_on_smaller():
    model, counts = Model(fits=2000), Counts()
    isolation = Isolation(model, known_good=GOOD, counts=counts)
    assert_exact(isolation.score(rows(1500), 1500, 3000), 1500, ())
    assert_exact(isolation.score(rows(20_000), 20_000, 3000), 20_000, ())
    assert (counts.oom_splits, model.calls[:4], max(model.calls[3:])) == (2, [1500, 3000, 2250, 1875], 1875)
    assert 1600 <= counts.batch_target_rows <= 2000


def test_an_empty_batch_takes_no_call():
    model = Model()
    outcome = Isolation(model).score(rows(0), 0)
    assert (model.calls, outcome.pieces, outcome.faults) == ([], [], {})


@pytest.mark.parametrize("k", [0, 1, 5, 100, 1_000, 10_000])
def test_ten_thousand_rows_lose_exactly_the_rows_that_raise_when_the_model_still_scores_its_known_good_input(k):
    bad = set(np.random.default_rng(k).choice(10_000, size=k, replace=False).tolist())
    model = Model(bad)
    outcome = Isolation(model, known_good=GOOD).score(rows(10_000), 10_000)
    assert_exact(outcome, 10_000, bad)
    assert len(model.calls) <= bound(10_000, k)


@pytest.mark.parametrize("known_good", [GOOD, None], ids=["warm-up worked", "nothing ever worked"])
def test_a_model_that_raises_on_everything_is_found_within_four_calls_after_the_first(known_good):
    model = Model(broken=True)
    with pytest.raises(SparkscoreError) as caught:
        Isolation(model, known_good=known_good).score(rows(10_000), 10_000)
    assert caught.value.code == "SPS-MODEL-RUN"
    assert len(model.calls) <= 1 + 4


def test_a_row_that_was_scored_before_takes_the_place_of_the_warm_up_input():
    model = Model()
    isolation = Isolation(model)
    isolation.score(rows(10), 10)
    model.broken = True
    with pytest.raises(SparkscoreError, match="scored before"):
        isolation.score(rows(10), 10)
    np.testing.assert_array_equal(isolation.known_good["x"], [0.0])


def test_rows_are_to_blame_when_nothing_is_known_to_be_good_but_some_rows_are_scored():
    bad = {0, 500, 7}
    outcome = Isolation(Model(bad)).score(rows(1000), 1000)
    assert_exact(outcome, 1000, bad)


def test_rows_that_fail_only_together_are_all_kept_and_counted_as_a_mix():
    counts = Counts()
    outcome = Isolation(Model(together={3.0, 900.0}), counts=counts, known_good=GOOD).score(rows(1000), 1000)
    assert_exact(outcome, 1000, ())
    assert counts.batch_mix == 1


def test_probed_rows_are_not_called_again():
    counts = Counts()
    outcome = Isolation(Model({0, 500}), counts=counts, known_good=GOOD).score(rows(1000), 1000)
    # whole, row 0, row 500, the known-good input, then the two parts between
    assert counts.model_calls == 6
    assert counts.bisect_calls == 5
    largest, tries = outcome.calls_of_rows()
    assert tries[[0, 500, 1, 999]].tolist() == [2, 2, 2, 2]
    assert set(largest.tolist()) == {1000}
    assert counts.rows_scored == 1000
    assert counts.rows_called == 1000 + 3 + 998


@pytest.mark.parametrize(
    "message",
    [
        "Required inputs (['x']) are missing",
        "Unexpected input data type. Actual: (tensor(double))",
        "Invalid output name:z",
    ],
)
def test_an_error_of_names_or_types_ends_at_the_first_call_and_blames_no_row(message):
    model = Model({0}, error=lambda _: RuntimeError(message))
    with pytest.raises(SparkscoreError) as caught:
        Isolation(model, known_good=GOOD).score(rows(100), 100)
    assert caught.value.code == "SPS-MODEL-RUN"
    assert model.calls == [100]


def test_a_lost_gpu_context_is_a_cluster_error():
    model = Model({0}, error=lambda _: RuntimeError("CUDA failure 700: an illegal memory access was encountered"))
    with pytest.raises(SparkscoreError) as caught:
        Isolation(model, known_good=GOOD).score(rows(100), 100)
    assert caught.value.code == "SPS-CLUSTER-WORKER"


@pytest.mark.parametrize("output", [np.zeros(99), np.zeros(()), np.zeros((101, 2))], ids=["short", "scalar", "long"])
def test_an_output_of_another_length_is_the_model_s_fault(output):
    with pytest.raises(SparkscoreError) as caught:
        Isolation(lambda feeds, timeout_s: [output]).score(rows(100), 100)
    assert caught.value.code == "SPS-MODEL-OUTPUT"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_batch_that_does_not_fit_is_cut_until_it_does_and_loses_no_row(n, fits):
    counts = Counts()
    outcome = Isolation(Model(fits=fits), counts=counts, known_good=GOOD).score(rows(n), n)
    assert_exact(outcome, n, ())
    assert (counts.oom_splits == 0) == (n <= fits)


@pytest.mark.parametrize("fits", [1, 3, 1000, 3500, 8191])
def test_within_ten_batches_the_size_is_at_least_80_percent_of_the_largest_that_fits(fits):
    model, sizes = Model(fits=fits), {}
    isolation = Isolation(model, sizes=sizes, known_good=GOOD)
    for _ in range(10):
        isolation.score(rows(8192), 8192)
    (held,) = sizes.values()
    assert 0.8 * fits <= held.good <= fits


def test_after_fifty_good_batches_larger_ones_are_tried_again_and_taken_when_they_fit():
    model = Model(fits=1000)
    isolation = Isolation(model, known_good=GOOD)
    isolation.score(rows(8192), 8192)
    model.fits = None  # a neighbour has given its memory back
    for _ in range(80):
        isolation.score(rows(8192), 8192)
    assert model.calls[-1] == 8192


def test_a_size_that_fits_is_remembered_for_the_next_task():
    sizes = {}
    Isolation(Model(fits=1000), sizes=sizes, known_good=GOOD).score(rows(8192), 8192)
    model = Model(fits=1000)
    Isolation(model, sizes=sizes, known_good=GOOD).score(rows(8192), 8192)
    assert max(model.calls) <= 1000


def test_a_single_row_that_does_not_fit_is_quarantined_and_does_not_keep_batches_small():
    def call(feeds, timeout_s):
        if 5000.0 in feeds["x"]:
            raise MemoryError("Unable to allocate 40 TiB")
        model.calls.append(len(feeds["x"]))
        return [feeds["x"] * 2]

    model = Model()
    isolation = Isolation(call, known_good=GOOD)
    outcome = isolation.score(rows(10_000), 10_000)
    assert_exact(outcome, 10_000, {5000})
    assert (outcome.faults[5000].code, outcome.faults[5000].error_class) == ("SPS-ROW-OOM", "P7")
    isolation.score({"x": np.zeros(10_000)}, 10_000)
    assert model.calls[-1] == 10_000


def test_memory_is_given_back_after_each_call_that_ran_out_of_it():
    renewed = []
    Isolation(Model(fits=60), known_good=GOOD, renew=lambda: renewed.append(1)).score(rows(100), 100)
    assert len(renewed) >= 1


def test_a_row_that_hangs_is_found_with_short_timeouts():
    model = Model({700}, error=CallTimeout)
    outcome = Isolation(model, known_good=GOOD, seconds_per_row=1e-6, batch_timeout_s=60.0).score(rows(1000), 1000)
    assert_exact(outcome, 1000, {700})
    assert (outcome.faults[700].code, outcome.faults[700].error_class) == ("SPS-ROW-TIMEOUT", "P8")
    assert model.timeouts[0] == 60.0
    assert set(model.timeouts[1:]) == {2.0}


def test_a_slow_model_is_given_twenty_times_its_expected_time_but_never_more_than_a_batch():
    def call(feeds, timeout_s):
        timeouts.append((len(feeds["x"]), timeout_s))
        if 3.0 in feeds["x"]:
            raise CallTimeout("hangs")
        return [feeds["x"]]

    timeouts = []
    isolation = Isolation(call, seconds_per_row=0.5, batch_timeout_s=60.0)
    isolation.learn = lambda *_: None  # keep the expectation
    isolation.score(rows(16), 16)
    assert (16, 60.0) in timeouts
    assert (1, 10.0) in timeouts
    assert (8, 60.0) in timeouts


def test_a_batch_that_only_as_a_whole_takes_too_long_is_scored_in_smaller_ones_from_then_on():
    def call(feeds, timeout_s):
        calls.append(len(feeds["x"]))
        if len(feeds["x"]) > 600:
            raise CallTimeout("too slow")
        return [feeds["x"] * 2]

    calls, counts = [], Counts()
    isolation = Isolation(call, counts=counts, known_good=GOOD)
    assert_exact(isolation.score(rows(1000), 1000), 1000, ())
    assert counts.batch_mix == 1
    calls.clear()
    assert_exact(isolation.score(rows(1000), 1000), 1000, ())
    assert max(calls) <= 600 or calls.count(max(calls)) <= 2


def test_the_learned_time_is_that_of_real_calls():
    def call(feeds, timeout_s):
        time.sleep(0.002)
        return [feeds["x"]]

    isolation = Isolation(call)
    isolation.score(rows(2), 2)
    assert 0.0009 < isolation._s_per_row < 0.5
