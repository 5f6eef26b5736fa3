"""The guard of CI: T1 and N1 beside the raw loop in the same process, against what is stored."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import pytest

from benchmarks import quick
from benchmarks.quick import Found, judged
from benchmarks.runs import processor
from sparkscore.scoring.scorer import Scorer

STORED = {
    "e": {"N1": 0.9},
    "raw_us": {processor(): {"N1": 100.0}},
}


@pytest.mark.slow
def test_t1_and_n1_are_as_near_to_the_raw_loop_as_is_stored(capsys: pytest.CaptureFixture[str]) -> None:
    assert quick.main() == 0, capsys.readouterr().out


@pytest.mark.slow
def test_a_scorer_that_needs_more_cpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    score = Scorer._scored

    def slower(scorer: Scorer, batch: pa.RecordBatch) -> Any:
        started = time.process_time()
        scored = score(scorer, batch)
        until = 2 * time.process_time() - started
        while time.process_time() < until:
            pass
        return scored

    before = quick.measured("T1 pyarrow", 50_000, 16)
    stored = {"e": {"T1 pyarrow": before.e}, "raw_us": {}}
    monkeypatch.setattr(Scorer, "_scored", slower)
    (failure,) = judged("T1 pyarrow", quick.measured("T1 pyarrow", 50_000, 16), stored)[0]
    assert "E fell" in failure


def test_e_may_fall_by_15_percent_and_no_more() -> None:
    assert judged("N1", Found(0.78, 100.0, 0.0, 1.02), STORED) == ([], [])
    (failure,) = judged("N1", Found(0.76, 100.0, 0.0, 1.02), STORED)[0]
    assert failure == "N1: E fell from 0.9 to 0.760, by more than 15%"


def test_a_twentieth_of_the_tokens_may_be_padding() -> None:
    assert judged("N1", Found(0.9, 100.0, 0.0, 1.05), STORED)[0] == []
    assert "1.060 computed tokens" in judged("N1", Found(0.9, 100.0, 0.0, 1.06), STORED)[0][0]


def test_a_slower_raw_loop_fails_on_the_same_processor_when_nothing_else_runs() -> None:
    slow = Found(0.9, 126.0, 0.0, 1.02)
    assert "26% more CPU" in judged("N1", slow, STORED)[0][0]
    beside = Found(0.9, 126.0, 1.0, 1.02)
    assert judged("N1", beside, STORED) == (
        [],
        ["the raw loop is not judged: other processes used 1.00 cores meanwhile"],
    )
    elsewhere = {**STORED, "raw_us": {"another": {"N1": 100.0}}}
    (note,) = judged("N1", slow, elsewhere)[1]
    assert note == f"the raw loop is not judged: nothing is stored for {processor()}"
