"""What scoring costs a Spark worker: model calls counted, one session a process, and what it has to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import sparkscore as ss
from sparkscore.spark import carriers
from sparkscore.spark.carriers import ColumnTask, FrameTask, worker_scorer
from tests.contract import cases
from tests.run.conftest import write_rows
from tests.scoring.graphs import FLOAT, INT64, graph, helper

pytestmark = pytest.mark.spark

INPUTS, OUTPUTS = {"x": ["a", "b", "c"]}, {"score": "y[:, 0]"}


class Counting(FrameTask):
    """`FrameTask`, which also leaves a note of each task that ran: its process, its session and the scorer's counts."""

    def __init__(self, folder: Path, *args) -> None:
        super().__init__(*args)
        self.folder = folder

    def __call__(self, batches):
        scorer = worker_scorer(self.plan)
        yield from self.by(scorer, batches)
        note(self.folder, scorer.session, rows_called=scorer.counts.rows_called)


class CountingColumn(ColumnTask):
    """`ColumnTask` with the same note."""

    def __init__(self, folder: Path, *args) -> None:
        super().__init__(*args)
        self.folder = folder

    def arrow(self, columns):
        yield from super().arrow(columns)
        note(self.folder, worker_scorer(self.plan).session)


def note(folder: Path, session, **facts: int) -> None:
    text = json.dumps({"pid": os.getpid(), "session": id(session), **facts})
    (folder / uuid.uuid4().hex).write_text(text)


def notes(folder: Path) -> list[dict[str, int]]:
    return [json.loads(p.read_text()) for p in folder.iterdir()]


@pytest.fixture
def counted(tmp_path: Path, monkeypatch) -> Path:
    """The adapters with noting tasks; gives the folder of the notes."""
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setattr(carriers, "FrameTask", partial(Counting, folder))
    monkeypatch.setattr(carriers, "ColumnTask", partial(CountingColumn, folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> str:
    return cases.numbers(tmp_path / "model", 1).model


def test_a_filter_or_projection_of_the_lazy_frame_calls_the_model_once_a_row(spark, counted, model, tmp_path) -> None:
    frame = spark.read.parquet(write_rows(tmp_path / "in", 3_000, 2))
    scored = ss.score(frame, model, INPUTS, OUTPUTS)
    seen = (
        scored.where("score > 1 AND id > 10").where("_ss.status = 'ok'").selectExpr("score + 1 AS s", "score * 2 AS t")
    )
    assert 0 < len(seen.collect()) < 2_990
    assert sum(n["rows_called"] for n in notes(counted)) == 3_000
    scored.agg({"score": "max"}).collect()  # another action scores again, as the docstring says
    assert sum(n["rows_called"] for n in notes(counted)) == 6_000


def test_a_worker_process_opens_one_session_for_all_its_tasks(spark, counted, model, tmp_path) -> None:
    frame = spark.read.parquet(write_rows(tmp_path / "in", 800, 8)).repartition(8)
    ss.score(frame, model, INPUTS, OUTPUTS).write.format("noop").mode("overwrite").save()
    function = ss.score_udf(model, INPUTS, OUTPUTS, schema="a float, b float, c float", form="arrow")
    frame.select(function("a", "b", "c")).write.format("noop").mode("overwrite").save()
    sessions = defaultdict(set)
    for one in notes(counted):
        sessions[one["pid"]].add(one["session"])
    assert len(notes(counted)) == 16 > len(sessions)  # 8 tasks each; at least one process had several
    assert all(len(found) == 1 for found in sessions.values())


# In a process of its own, with a new worker for each task: an empty one must not have scored before.
_FOOTPRINT = """
import json, sys
import pyarrow as pa
from sparkscore.run.adapters import _bound, load
from sparkscore.run.frames import prepared_schema
from sparkscore.scoring.verdicts import ERR_TYPE
from sparkscore.spark.carriers import FrameTask, UnitContext, UnitTask
from sparkscore.spark.sessions import local_session

def modules(batches, task):
    scored = sum(batch.num_rows for batch in task(batches))
    names = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
    yield pa.RecordBatch.from_pydict({"rows": [scored], "names": [sorted(names)]})

spark = local_session("local[1]", {"spark.python.worker.reuse": "false"})
calls, folder = json.loads(sys.argv[1]), sys.argv[2]
found = {}
for name, (rows, model, inputs) in {"empty": calls["numbers"], **calls}.items():
    frame = spark.read.parquet(rows).coalesce(1)
    task = lambda batches: batches
    if name != "empty":
        _, plan = _bound(model, inputs, None, prepared_schema(frame), {"keep": "all"})
        task = UnitTask(plan, UnitContext("r", 0, 1, folder)) if name == "unit" else FrameTask(plan, ERR_TYPE)
    seen = frame.mapInArrow(lambda batches, task=task: modules(batches, task), "rows bigint, names array<string>")
    row = seen.collect()[0]
    assert row.rows, name
    found[name] = row.names
print(json.dumps(found))
"""


def test_a_scoring_worker_imports_numpy_pyarrow_onnxruntime_and_the_encoders_library(
    model: str, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    pixel = bytes.fromhex("424d3a0000000000000036000000280000000100000001000000010018000000000004000000") + bytes(20)
    pq.write_table(pa.table({"text": ["good", "bad"], "picture": [pixel, b"none"]}), tmp_path / "media.parquet")
    copy = helper.make_node("Cast", ["i"], ["y"], to=FLOAT)
    ids = cases.saved(tmp_path / "text", graph([copy], [("i", INT64, ["n", 4])], [("y", FLOAT, ["n", 4])]))
    same = helper.make_node("Identity", ["i"], ["y"])
    shape = ["n", 3, 1, 1]
    pixels = cases.saved(tmp_path / "image", graph([same], [("i", FLOAT, shape)], [("y", FLOAT, shape)]))
    rows = write_rows(tmp_path / "in", 100, 1, bad=lambda i: i == 7)
    text = {"text": "text", "tokenizer": str(tmp_path / "tokenizer.json"), "max_tokens": 4}
    calls = {
        "numbers": (rows, model, INPUTS),
        "unit": (rows, model, INPUTS),
        "text": (str(tmp_path / "media.parquet"), ids, {"i": text}),
        "image": (str(tmp_path / "media.parquet"), pixels, {"i": {"image": "picture", "size": [1, 1]}}),
    }
    command = [sys.executable, "-c", _FOOTPRINT, json.dumps(calls), str(tmp_path / "ledger")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: set(names) for name, names in json.loads(done.stdout.splitlines()[-1]).items()}

    added = {name: names - found["empty"] - {"sparkscore", "numpy", "pyarrow"} for name, names in found.items()}
    assert added["numbers"] == added["unit"] == {"onnxruntime"}
    assert added["text"] == {"onnxruntime", "tokenizers"}
    pictures = {name for name in added["image"] if not name.startswith("_cython")} - {"defusedxml", "olefile"}
    assert pictures == {"onnxruntime", "PIL", "simplejpeg", "cykooz_resizer"}
    assert "pandas" not in set().union(*added.values())
