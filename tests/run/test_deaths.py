"""Workers that die of every cause in one run: each death is told with its class, and with the rows it happened on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.kernel import memory_group
from tests.run.conftest import delta_rows, expected_score, write_rows

# In ONNX Runtime's own call, in every process of the run: the first attempt's worker and the second one's child.
PLANT = """
import mmap, os, signal, time
import onnxruntime

FILLED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE  # sooner than page by page: a call has 6 s

def run(self, names, feeds, options=None):
    marks = set(feeds["x"].ravel().tolist())
    if -1.0 in marks: os.kill(os.getpid(), signal.SIGSEGV)
    if -2.0 in marks: os.kill(os.getpid(), signal.SIGKILL)
    if -4.0 in marks: os._exit(0)
    if -5.0 in marks: time.sleep(1e6)
    if -6.0 in marks: hoard = [mmap.mmap(-1, 2**27, flags=FILLED) for _ in range(32)]
    return call(self, names, feeds, options)

call = onnxruntime.InferenceSession.run
onnxruntime.InferenceSession.run = run
"""
# The second run has no guard: what kills a worker ends it.
RUNS = """
import json, sys
from sparkscore.errors import SparkscoreError
from sparkscore.run.pipeline import Pipeline
from sparkscore.spark.sessions import local_session
spark = local_session("local[1,4]", {"spark.sql.files.maxPartitionBytes": "1m", "spark.driver.memory": "512m"})
for document in json.loads(sys.argv[1]):
    try:
        found = Pipeline.load(document).run(spark, run_id="r1").summary().exit_code
    except SparkscoreError as failure:
        found = str(failure)
    print(json.dumps(found))
"""
ROWS, BAD = 6, 2  # a file, and which of its rows kills
KINDS = {-1.0: ("P4", "signal 11"), -2.0: ("P6", "signal 9"), -4.0: ("P6", "exit code 0"), -5.0: ("P8", "CallTimeout")}
OOM = {-6.0: ("P5", "signal 9")}
GROUP_BYTES = 2560 * 1024**2  # what the JVM and a worker need, and what one worker can fill in a second


def planted(folder: Path, marks: list[float]) -> str:
    """Write a file for each mark with one row that has it; that which hangs is alone, for it takes 6 s a call."""
    files = sorted(Path(write_rows(folder, ROWS * len(marks), len(marks))).iterdir())
    for file, mark in zip(files, marks, strict=True):
        table = pq.read_table(file)
        cells = table["a"].to_pylist()
        cells[BAD] = mark
        table = table.set_column(1, table.schema.field("a"), pa.array(cells, pa.float32()))
        pq.write_table(table.slice(BAD, 1) if mark == -5.0 else table, file)
    return str(folder)


def run(documents: list[dict], folder: Path, group: Path | None) -> list:
    """Run pipelines one after another in one session, with the fault planted; give exit codes and messages."""
    (folder / "plant").mkdir()
    (folder / "plant" / "sitecustomize.py").write_text(PLANT)
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'plant'}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-c", RUNS, json.dumps(documents)]
    if group is not None:
        command = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group), *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-len(documents) :]]


def events(ledger: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted((ledger / "events").rglob("*.json"))]


@pytest.mark.spark
@pytest.mark.slow
def test_each_death_is_told_with_its_class_and_its_rows(document, tmp_path: Path) -> None:
    with ExitStack() as stack:
        group = memory_group("sparkscore-deaths", GROUP_BYTES, stack)
        kinds = {**KINDS, **(OOM if group else {})}
        planted(tmp_path / "in", list(kinds))
        source = {"format": "parquet", "location": planted(tmp_path / "in2", [-2.0])}
        unguarded = document(
            source=source,
            sink={"format": "delta", "location": str(tmp_path / "out2")},
            on_error={"guard": "off"},
        )
        guarded = document(on_error={"batch_timeout_s": 1, "max_fraction": 0.5})
        exit_code, message = run([guarded, unguarded], tmp_path, group)

    assert exit_code == 0
    rows = {row["id"]: row for row in delta_rows(tmp_path / "out").to_pylist()}
    bad = {i: (row["_ss"]["error_class"], row["_ss"]["error_type"]) for i, row in rows.items() if row["score"] is None}
    assert bad == {ROWS * k + BAD: found for k, found in enumerate(kinds.values())}
    assert all(row["score"] == expected_score(i) for i, row in rows.items() if i not in bad)

    told = [event for event in events(tmp_path / "out_ledger") if event["event"] == "worker_died"]
    facts = {event["first_pointer"]: (event["error_class"], event["phase"], event["batch_rows"]) for event in told}
    names = {f"file:{tmp_path}/in/part-{k:03d}.parquet#0": mark for k, mark in enumerate(kinds)}
    assert facts == {name: (kinds[mark][0], "infer", 1 if mark == -5.0 else ROWS) for name, mark in names.items()}
    assert {event["task_attempt"] for event in told} == {0}  # a guarded worker outlives its rows

    file = f"file:{tmp_path}/in2/part-000.parquet"
    assert message.startswith("[SPS-CLUSTER-WORKER]")
    assert f"It died in a model call of batch 1, {ROWS} rows from {file}#0 to {file}#{ROWS - 1}, as process " in message
    closing = [event["event"] for event in events(tmp_path / "out2_ledger")][-6:]
    assert closing == [*["worker_died"] * 4, "unit_failed", "run_failed"]  # four attempts, and no row of any is told
    (newest,) = [e for e in events(tmp_path / "out2_ledger") if e.get("task_attempt") == 3]
    assert newest["evidence"] in message
    assert json.loads((tmp_path / "out2_ledger" / newest["evidence"]).read_text())["error_class"] == "P6"
