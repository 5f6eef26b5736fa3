"""Bad rows that are scored again: those whose cause was mended end in the sink once, whatever happens on the way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import LocalStore
from sparkscore.run import batch, requeue
from sparkscore.run.discarding import discard_run
from tests.run.conftest import delta_rows, expected_score, write_rows
from tests.run.test_crash_points import Death, DyingStore

pytestmark = [pytest.mark.spark, pytest.mark.slow]

ROWS, EVERY = 2_000, 20
BAD = [i for i in range(ROWS) if i % EVERY == 7]
LENIENT = {"max_fraction": 0.5}
# Of the bad ids, those of the second half are mended, 7 is filtered away, the others stay bad.
MENDED = [
    {"where": "id <> 7"},
    {"with": {"a": "CASE WHEN id >= 1000 THEN coalesce(a, 0) ELSE a END"}},
]


def states(tmp_path: Path, run_id: str = "r1") -> dict[int, tuple[str, str | None]]:
    rows = delta_rows(tmp_path / "out_ledger" / "tables" / "quarantine").to_pylist()
    return {int(dict(r["keys"])["id"]): (r["state"], r["resolved_run_id"]) for r in rows if r["run_id"] == run_id}


def good(tmp_path: Path) -> Counter[int]:
    rows = delta_rows(tmp_path / "out").to_pylist()
    for row in rows:
        if row["_ss"]["status"] == "ok" and row["_ss"]["run_id"] == "r1":
            assert row["score"] == expected_score(row["id"])
    return Counter(row["id"] for row in rows if row["_ss"]["status"] == "ok")


def told(ids: Any) -> dict[int, tuple[str, str | None]]:
    state = {i: "replayed_ok" if i >= 1000 else "discarded" if i == 7 else "replayed_bad" for i in ids}
    return {i: (s, "r1.requeue-1") for i, s in state.items()}


@pytest.fixture
def scored(spark, pipeline, tmp_path: Path) -> None:
    """A run with bad rows, spread over two files."""
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i % EVERY == 7)
    run = pipeline(on_error=LENIENT).run(spark, run_id="r1")
    assert run.summary().quarantined_rows == len(BAD)


def test_mended_rows_end_in_the_sink_once_and_every_row_has_its_new_state(
    spark, pipeline, scored, tmp_path: Path
) -> None:
    mended = pipeline(prepare=MENDED, source=_where(tmp_path, "id < 0"))
    summary = mended.requeue("r1", spark).summary()

    assert (summary.run_id, summary.state) == ("r1.requeue-1", "SUCCEEDED")
    assert (summary.planned_rows, summary.ok_rows, summary.quarantined_rows) == (100, 50, 49)
    assert sum(summary.filtered_rows.values()) == 1
    assert good(tmp_path) == Counter(i for i in range(ROWS) if i not in BAD or i >= 1000)
    assert states(tmp_path) == told(BAD)
    assert set(states(tmp_path, "r1.requeue-1").values()) == {("open", None)}
    runs = delta_rows(tmp_path / "out_ledger" / "tables" / "runs").to_pylist()
    assert {(r["run_id"], r["kind"]) for r in runs} == {("r1", "batch"), ("r1.requeue-1", "replay")}

    again = mended.requeue("r1", spark).summary()
    assert (again.run_id, again.repeated) == ("r1.requeue-1", True)
    assert sum(good(tmp_path).values()) == ROWS - 50
    # What stayed bad is open in the replay, and is requeued from there.
    assert pipeline(prepare=[{"with": {"a": "coalesce(a, 0)"}}]).requeue("r1.requeue-1", spark).summary().ok_rows == 49
    assert sum(good(tmp_path).values()) == ROWS - 1


def test_a_requeue_that_dies_half_way_and_is_repeated_has_the_same_result(
    spark, pipeline, scored, tmp_path: Path, monkeypatch
) -> None:
    mended = pipeline(prepare=MENDED)
    with monkeypatch.context() as patched:
        for module in (batch, requeue):
            patched.setattr(module, "open_store", lambda root: DyingStore(root, "unit_committed"))
        with pytest.raises(Death):
            mended.requeue("r1", spark)
    again = mended.requeue("r1", spark, take_over=True).summary()
    assert (again.run_id, again.attempt, again.ok_rows) == ("r1.requeue-1", 2, 50)
    assert good(tmp_path) == Counter(i for i in range(ROWS) if i not in BAD or i >= 1000)
    assert states(tmp_path) == told(BAD)


def test_a_driver_that_dies_before_the_states_are_told_tells_them_next_time_and_a_discarded_replay_takes_them_back(
    spark, pipeline, scored, tmp_path: Path, monkeypatch
) -> None:
    mended = pipeline(prepare=MENDED)
    with monkeypatch.context() as patched:
        patched.setattr(requeue, "_settle", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mended.requeue("r1", spark)
    assert {state for state, _ in states(tmp_path).values()} == {"open"}
    assert mended.requeue("r1", spark).summary().repeated
    assert states(tmp_path) == told(BAD)

    store = LocalStore(tmp_path / "out_ledger")
    discard_run(spark, store, requeue.read_plan(store, "r1.requeue-1"))
    assert set(states(tmp_path).values()) == {("open", None)}
    assert sum(good(tmp_path).values()) == ROWS - 100
    assert requeue.replay_id(store, "r1") == "r1.requeue-2"


def test_rows_whose_source_is_gone_are_named_and_stay_open_and_another_sink_is_refused(
    spark, pipeline, scored, tmp_path: Path
) -> None:
    gone = tmp_path / "in" / "part-000.parquet"
    kept = gone.read_bytes()
    gone.unlink()
    summary = pipeline(prepare=MENDED).requeue("r1", spark).summary()
    assert (summary.planned_rows, summary.ok_rows) == (50, 50)
    assert any("R3: 50 rows of" in w and "part-000.parquet is gone" in w for w in summary.warnings)
    assert states(tmp_path) == {i: told([i])[i] if i >= 1000 else ("open", None) for i in BAD}

    with pytest.raises(SparkscoreError, match=r"SPS-DATA-GONE.*50 open rows") as caught:
        pipeline(prepare=MENDED).requeue("r1", spark)
    assert caught.value.exit_code == 6
    gone.write_bytes(kept)  # at another time: who can say that it is the same file
    with pytest.raises(SparkscoreError, match=r"SPS-DATA-GONE.*bytes at the plan"):
        pipeline(prepare=MENDED).requeue("r1", spark)

    with pytest.raises(SparkscoreError, match=r"SPS-RUN-UNKNOWN"):
        pipeline().requeue("r2", spark)
    sink = {"format": "delta", "location": str(tmp_path / "other")}
    with pytest.raises(SparkscoreError, match=r"SPS-RUN-CHANGED.*Expected the sink of run r1"):
        pipeline(sink=sink, ledger=str(tmp_path / "out_ledger")).requeue("r1", spark)


def test_lines_without_a_row_index_are_found_at_their_ordinals(spark, pipeline, tmp_path: Path) -> None:
    """Malformed lines and nulls, in files of which Spark splits none; the malformed ones stay what they are.

    Ordinals count what `source.where` left: a mended pipeline that says another one finds the same rows.
    """
    (tmp_path / "in").mkdir()
    for part in range(2):
        lines = [_line(i) for i in range(part * 1000, part * 1000 + 1000)]
        (tmp_path / "in" / f"{part} a#b.csv").write_text("\n".join(lines) + "\n")
    source = {"format": "csv", "location": str(tmp_path / "in"), "schema": "id bigint, a float, b float, c float"}
    pipeline(source={**source, "where": "id % 10 <> 3"}, on_error=LENIENT, keys=[]).run(spark, run_id="r1")
    mended = pipeline(source=source, prepare=[{"with": {"a": "coalesce(a, 0)"}}], keys=[])
    summary = mended.requeue("r1", spark).summary()
    assert (summary.planned_rows, summary.ok_rows, summary.quarantined_rows) == (120, 100, 20)
    assert summary.quarantined_by_code == {"SPS-ROW-DECODE": 20}
    rows = delta_rows(tmp_path / "out").to_pylist()
    pointers = Counter(r["_ss"]["source_pointer"] for r in rows if r["_ss"]["status"] == "ok")
    assert (len(pointers), sum(pointers.values())) == (1780, 1780)
    scores = {r["_ss"]["source_pointer"].rpartition("/")[2]: r["score"] for r in rows if r["_ss"]["status"] == "ok"}
    assert scores["1%20a%23b.csv#0+6"] == expected_score(1007) - 0.5 * (1007 % 97)


def test_a_sink_that_each_run_overwrites_takes_no_replay(spark, pipeline, tmp_path: Path) -> None:
    sink = str(tmp_path / "out")
    plan = Plan({"run_id": "r1", "sink": sink, "sink_keys": {"location": sink, "mode": "overwrite"}}, ())
    with pytest.raises(SparkscoreError, match=r"SPS-SPEC-SINK.*mode overwrite"):
        requeue._planned(spark, pipeline().spec, LocalStore(tmp_path / "ledger"), plan, "r1.requeue-1")


def _where(tmp_path: Path, where: str) -> dict[str, Any]:
    return {"format": "parquet", "location": str(tmp_path / "in"), "where": where}


def _line(i: int) -> str:
    a = "" if i % EVERY == 7 else i % 97
    return f"{i},{a},{i % 13},{i % 7}" if i % 100 != 50 else f"{i},x,{i % 13},{i % 7}"
