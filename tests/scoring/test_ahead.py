"""What is read and encoded while the model runs comes out as if it were not."""

from __future__ import annotations

import threading

import pytest

from sparkscore.scoring.scorer import open_scorer
from sparkscore.spec.scoring import SessionPlan
from tests.scoring.test_scorer import indices, lookup_plan, models, run

__all__ = ["models"]  # a fixture


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
