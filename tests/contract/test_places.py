"""What differs from place to place: where workers are, what they share with the driver, and how their ends are told.

These, and what is marked `place` in the other files here, run again on each cluster: tests/e2e/test_clusters.py.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkscore as ss
from sparkscore.errors import SparkscoreError
from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import open_store
from sparkscore.run import attempt
from sparkscore.run.discarding import discard_run
from sparkscore.run.erasing import erase_rows
from sparkscore.spark.carriers import UnitTask
from tests.run.conftest import delta_rows, expected_score, linear_model, write_rows

pytestmark = [pytest.mark.spark, pytest.mark.place]

ROWS = 400
INPUTS, OUTPUTS = {"x": ["a", "b", "c"]}, {"score": "y[:, 0]"}

# In ONNX Runtime's own call, in a worker and in the child that guards it.
PLANT = """
import os, signal
import onnxruntime

def run(self, names, feeds, options=None):
    if (feeds["x"] == -2.0).any(): os.kill(os.getpid(), signal.SIGKILL)
    return call(self, names, feeds, options)

call = onnxruntime.InferenceSession.run
onnxruntime.InferenceSession.run = run
"""


class Deadly(UnitTask):
    """`UnitTask` whose worker dies of a row with a = -2, and the child that guards its second attempt, too."""

    def __init__(self, folder: Path, *args: Any) -> None:
        super().__init__(*args)
        self.folder = folder

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        before = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = f"{self.folder}{os.pathsep}{before}"  # of the child
        exec(PLANT, {})
        try:
            yield from super().__call__(batches)
        finally:
            os.environ["PYTHONPATH"] = before


class NoMoreInput(UnitTask):
    """`UnitTask` whose input does not come, as where a storage hangs."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        def silent() -> Iterator[pa.RecordBatch]:
            for batch in batches:
                time.sleep(600)
                yield batch

        yield from super().__call__(silent())


class KillsItsExecutor(UnitTask):
    """`UnitTask` that ends its executor in the middle of the first task that comes to it."""

    def __init__(self, folder: Path, *args: Any) -> None:
        super().__init__(*args)
        self.folder = folder

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for scored in super().__call__(batches):
            yield scored
            executor = _parent(os.getppid())  # the worker's parent is the daemon that forks workers, its parent the JVM
            try:
                (self.folder / "killed").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(executor, signal.SIGKILL)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A pipeline over 400 rows in two files, of which row 7 is bad."""
    return {
        "version": 1,
        "name": "places",
        "source": {"format": "parquet", "location": write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i == 7)},
        "model": {"uri": linear_model(tmp_path / "linear.onnx")},
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "keys": ["id"],
        "sink": {"format": "delta", "location": str(tmp_path / "out")},
    }


def _scores(folder: Path) -> list[tuple[int, float | None, str | None]]:
    return sorted((r["id"], r["score"], r["_ss"]["error_code"]) for r in delta_rows(folder / "out").to_pylist())


def _expected(**bad: str) -> list[tuple[int, float | None, str | None]]:
    codes = {7: "SPS-ROW-NULL", **{int(name[1:]): code for name, code in bad.items()}}
    return [(i, None if i in codes else expected_score(i), codes.get(i)) for i in range(ROWS)]


def _receipts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "out_ledger" / "receipts").rglob("*.json")]


def test_every_entrance_works(spark, document, tmp_path: Path) -> None:
    pipeline = ss.Pipeline.load(document)
    assert (pipeline.check(spark).ok_rows, pipeline.peek(spark, 5).num_rows) == (ROWS - 1, 5)

    run = pipeline.run(spark, run_id="r1")
    assert (run.summary().exit_code, run.summary().ok_rows, run.summary().quarantined_rows) == (0, ROWS - 1, 1)
    assert (run.scores().count(), run.failures().select("id").collect()[0].id) == (ROWS - 1, 7)
    assert {unit.state for unit in run.units().collect()} == {"COMMITTED"}
    assert _scores(tmp_path) == _expected()
    assert sum(receipt["rows_in"] for receipt in _receipts(tmp_path)) == ROWS  # from wherever the workers are
    assert pipeline.run(spark, run_id="r1").summary().repeated

    (bad,) = delta_rows(tmp_path / "out_ledger" / "tables" / "quarantine").to_pylist()  # by another reader of Delta
    assert (dict(bad["keys"]), bad["error_code"]) == ({"id": "7"}, "SPS-ROW-NULL")
    store = open_store(pipeline.spec.ledger)
    discard_run(spark, store, read_plan(store, "r1"))
    assert _scores(tmp_path) == []


@pytest.mark.lanes
def test_a_connect_client_stages_files_copies_a_view_and_mends_and_forgets_its_bad_rows(
    spark, document, tmp_path: Path
) -> None:
    if "connect" not in type(spark).__module__:
        pytest.skip("elsewhere it is the session of all other tests that does it")
    spark.read.parquet(document["source"]["location"]).createOrReplaceTempView("places")
    document |= {"source": {"table": "places"}, "sink": {"format": "parquet", "location": str(tmp_path / "out")}}
    document |= {"on_error": {"max_fraction": 0.5}, "quarantine": {"payload": "plain"}}
    assert ss.Pipeline.load(document).run(spark, run_id="r1").summary().quarantined_rows == 1
    mended = ss.Pipeline.load({**document, "prepare": [{"with": {"a": "coalesce(a, 0)"}}]})
    assert mended.requeue("r1", spark).summary().ok_rows == 1
    scores = ss.read_scores(spark, str(tmp_path / "out")).select("id").collect()
    assert Counter(row.id for row in scores) == Counter(range(ROWS))

    store, quarantine = open_store(mended.spec.ledger), tmp_path / "out_ledger" / "tables" / "quarantine"
    assert [row["state"] for row in delta_rows(quarantine).to_pylist()] == ["replayed_ok"]
    assert erase_rows(spark, store, {"id": "7"})[0] == {str(quarantine): 1}
    assert [row["payload"] for row in delta_rows(quarantine).to_pylist()] == [None]
    discard_run(spark, store, read_plan(store, "r1"))
    assert Counter(row.id for row in ss.read_scores(spark, str(tmp_path / "out")).collect()) == Counter([7])


def test_workers_get_a_model_and_labels_that_only_the_driver_reads(spark, tmp_path: Path) -> None:
    frame = spark.read.parquet(write_rows(tmp_path / "in", ROWS, 2))
    model, labels = linear_model(tmp_path / "only-here.onnx"), tmp_path / "labels.txt"
    labels.write_text("one\n")
    outputs = {**OUTPUTS, "label": {"output": "y", "then": ["argmax", {"labels": str(labels)}]}}
    scored = ss.score(frame, model, INPUTS, outputs)
    function = ss.score_udf(model, INPUTS, OUTPUTS, schema="a float, b float, c float")
    by_column = frame.select("id", function("a", "b", "c").alias("s")).select("id", "s.score")
    Path(model).unlink()  # what a worker on another machine sees of this disk
    labels.unlink()
    found = {row.id: (row.score, row.label) for row in scored.select("id", "score", "label").collect()}
    assert found == {i: (expected_score(i), "one") for i in range(ROWS)}
    assert {row.id: (row.score, "one") for row in by_column.collect()} == found


def test_an_error_of_a_worker_arrives_as_it_was_raised(spark, document) -> None:
    document["on_error"] = {"policy": "fail"}
    with pytest.raises(SparkscoreError) as raised:
        ss.Pipeline.load(document).run(spark, run_id="r1")
    assert (raised.value.code, raised.value.exit_code) == ("SPS-ROW-NULL", 6)
    assert "part-000.parquet" in str(raised.value)


def test_a_row_that_kills_its_worker_is_the_only_one_quarantined(spark, document, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant" / "sitecustomize.py").write_text(PLANT)
    monkeypatch.setattr(attempt, "UnitTask", partial(Deadly, tmp_path / "plant"))
    file = tmp_path / "in" / "part-000.parquet"
    table = pq.read_table(file)
    cells = [-2.0 if i == 77 else value for i, value in enumerate(table["a"].to_pylist())]
    pq.write_table(table.set_column(1, table.schema.field("a"), pa.array(cells, pa.float32())), file)

    assert ss.Pipeline.load(document).run(spark, run_id="r1").summary().exit_code == 0
    assert _scores(tmp_path) == _expected(_77="SPS-ROW-CRASH")
    (bad,) = (row["_ss"] for row in delta_rows(tmp_path / "out").to_pylist() if row["id"] == 77)
    assert (bad["error_type"], bad["error_class"]) == ("signal 9", "P6")
    # Of the first attempt nothing is left: the worker died in it, and left no receipt.
    assert sum(receipt["guard_deaths"] for receipt in _receipts(tmp_path)) > 0


def test_a_unit_that_stands_still_is_ended_by_name_and_the_next_start_goes_on(
    spark, document, tmp_path: Path, monkeypatch
) -> None:
    document["on_error"] = {"no_progress_s": 4, "batch_timeout_s": 3}
    with monkeypatch.context() as patched:
        patched.setattr(attempt, "UnitTask", NoMoreInput)
        with pytest.raises(SparkscoreError) as raised:
            ss.Pipeline.load(document).run(spark, run_id="r1")
    assert (raised.value.code, raised.value.exit_code) == ("SPS-CLUSTER-STALLED", 8)
    assert (
        "of unit 0 (part-000.parquet, part-001.parquet). It waits in read, and has had no batch yet"
        in raised.value.message
    )
    evidence = json.loads((tmp_path / "out_ledger" / raised.value.context["evidence"]).read_text())
    assert (evidence["unit_seq"], evidence["attempt"], evidence["error_class"]) == (0, 1, "P8")

    assert ss.Pipeline.load(document).run(spark, run_id="r1").summary().exit_code == 0
    assert _scores(tmp_path) == _expected()


def test_an_executor_that_dies_in_the_middle_of_a_unit_costs_no_row(
    spark, document, tmp_path: Path, monkeypatch
) -> None:
    if not spark.conf.get("spark.master").startswith(("local-cluster", "spark:")):
        pytest.skip("the executor is the driver here")
    monkeypatch.setattr(attempt, "UnitTask", partial(KillsItsExecutor, tmp_path))
    assert ss.Pipeline.load(document).run(spark, run_id="r1").summary().exit_code == 0
    assert (tmp_path / "killed").exists()
    assert _scores(tmp_path) == _expected()
