"""A row on which the model kills, hangs or bursts its process costs that row, and its neighbours keep their bits."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import guard
from sparkscore.runtime.guard import GuardedSession
from sparkscore.runtime.session import Session
from sparkscore.runtime.wire import SharedMemory, pack, receive, send
from sparkscore.scoring.scorer import open_scorer
from sparkscore.spec.scoring import ErrorPlan, InputPlan, Missing, Numbers, ScoringPlan, SessionPlan, Tensor
from tests.scoring import graphs
from tests.scoring.test_scorer import FLAT_Y, INDEX, ROOT, X, Y, batch, errors_of, indices, models, numbers, run

__all__ = ["models"]  # a fixture

# Faults of the process, planted where a native library would have them: in ONNX Runtime's own call, in the child only,
# which is the one interpreter that starts after PYTHONPATH names this file. Every call also prints on both streams.
PLANT = """
import os, signal, sys, time
import onnxruntime

def run(self, names, feeds, options=None):
    print("noise on stdout", flush=True)
    print("noise on stderr", file=sys.stderr, flush=True)
    marks = set(feeds["x"].ravel().tolist())
    if -1.0 in marks: os.kill(os.getpid(), signal.SIGSEGV)
    if -2.0 in marks: os.kill(os.getpid(), signal.SIGKILL)
    if -3.0 in marks: sys.exit(3)
    if -4.0 in marks: os._exit(0)
    if -5.0 in marks: time.sleep(1e6)
    return call(self, names, feeds, options)

call = onnxruntime.InferenceSession.run
onnxruntime.InferenceSession.run = run
"""
KILLS_ALWAYS = PLANT.replace("if -1.0 in marks: ", "")
KILLS_AT_LOAD = "import os, onnxruntime\nonnxruntime.InferenceSession.__init__ = lambda *_, **__: os._exit(7)"
KILLS_BUT_ZEROS = PLANT.replace("-1.0 in marks", "marks != {0.0}")

PERILS = (
    InputPlan("x", "float32", (2,), (Tensor(("x",), Missing(nan="error"), shape=(2,)),)),
    InputPlan("i", "int64", (), (Numbers(("i",)),)),
    InputPlan("size", "int64", (), (Numbers(("size",)),)),
)
N, POISON = 40, (0, 20, 33)  # the two rows that are probed first, and one more

KINDS = {
    "raise": ("i", 10**6, "SPS-ROW-MODEL", "O3", "InvalidArgument"),
    "NaN": ("x", [1.0, float("nan")], "SPS-ROW-NAN", "O3", None),
    "wrong shape": ("x", [1.0, 2.0, 3.0], "SPS-ROW-SHAPE", "O3", None),
    "SIGSEGV": ("x", [-1.0, 0.0], "SPS-ROW-CRASH", "P4", "signal 11"),
    "SIGKILL": ("x", [-2.0, 0.0], "SPS-ROW-CRASH", "P6", "signal 9"),
    "sys.exit": ("x", [-3.0, 0.0], "SPS-ROW-CRASH", "P6", "exit code 3"),
    "silent exit": ("x", [-4.0, 0.0], "SPS-ROW-CRASH", "P6", "exit code 0"),
    "hang": ("x", [-5.0, 0.0], "SPS-ROW-TIMEOUT", "P8", "CallTimeout"),
    "OOM": ("size", 2**43, "SPS-ROW-OOM", "P7", "Fail"),
}


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Plant a fault in interpreters that start from now on."""

    def put(text: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


@pytest.fixture(autouse=True)
def _no_process_left():
    before = children()
    yield
    assert children() <= before


def children(pid="self") -> set[str]:
    return {child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()}


def guarded(plan, **policy):
    return replace(plan, on_error=ErrorPlan(guard="always", **policy))


def perilous(folder, changes):
    """A plan over a model that scores by x, looks up i, and makes `size` numbers; rows with some cells changed."""
    ref = graphs.write(folder / "perils", graphs.perils())
    columns = {"x": [[float(row), 0.5] for row in range(N)], "i": [row % 10 for row in range(N)], "size": [0] * N}
    for row, (name, value) in changes.items():
        columns[name][row] = value
    rows = pa.RecordBatch.from_pydict(
        {
            "id": pa.array(range(N), pa.int64()),
            "x": pa.array(columns["x"], pa.list_(pa.float32())),
            "i": pa.array(columns["i"], pa.int64()),
            "size": pa.array(columns["size"], pa.int64()),
        }
    )
    return ScoringPlan(ref, PERILS, Y, ("id",)), rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_rows_that_raise_kill_hang_or_burst_are_quarantined_and_the_rest_is_bit_equal(
    kind, tmp_path, plant
):
    column, value, code, class_id, error_type = KINDS[kind]
    rows = POISON[:1] if kind == "hang" else POISON
    undisturbed, _ = run(*perilous(tmp_path, {}))
    plan, poisoned = perilous(tmp_path, dict.fromkeys(rows, (column, value)))
    plant(PLANT)
    table, scorer = run(guarded(plan, batch_timeout_s=1.0, grace_s=0.1), poisoned)
    found = errors_of(table)
    assert {row: (e["error_code"], e["error_class"], e["error_type"]) for row, e in found.items()} == dict.fromkeys(
        rows, (code, class_id, error_type)
    )
    assert table["id"].to_pylist() == list(range(N))
    good = np.setdiff1d(np.arange(N), rows)
    assert table["y"].take(good).to_numpy().tobytes() == undisturbed["y"].take(good).to_numpy().tobytes()
    assert (scorer.counts.guard_deaths > 0) == (kind in ("SIGSEGV", "SIGKILL", "sys.exit", "silent exit", "hang"))


def test_a_loop_that_never_ends_is_ended_without_the_death_of_its_process(models):
    plan = ScoringPlan(models["endless"], ROOT, FLAT_Y, ("id",))
    rows = batch(id=pa.array(range(8), pa.int64()), a=pa.array([0, -1, 0, 0, 0, 2, 0, 0], pa.float32()))
    table, scorer = run(guarded(plan, batch_timeout_s=0.5), rows)
    assert {row: e["error_code"] for row, e in errors_of(table).items()} == {5: "SPS-ROW-TIMEOUT"}
    assert scorer.counts.guard_deaths == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, inputs, outputs, rows",
    [
        ("linear", X, Y, batch(**numbers(2_000))),
        ("linear_4", X, Y, batch(**numbers(9))),
        ("lookup", INDEX, FLAT_Y, indices([1, 2, 5_000, 3, -7_000, 4])),
        ("root", ROOT, FLAT_Y, batch(id=pa.array([0, 1, 2]), a=pa.array([4, -1, 9], pa.float32()))),
        (
            "text_length",
            (InputPlan("s", "str", (), (Numbers(("s",)),)),),
            FLAT_Y,
            batch(id=pa.array([0, 1, 2]), s=["1.5", "Ännchen", "7"]),
        ),
        (
            "bare",
            (InputPlan("x", "float32", (3,), (Tensor(("x",), shape=(3,)),)),),
            (replace(Y[0], rank=1, index=None),),
            batch(id=pa.array([0, 1]), x=pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.float32()))),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_guarded_table_is_that_of_an_unguarded_run_with_its_errors(models, name, inputs, outputs, rows):
    fixed = {"linear_4": 4, "bare": 1}.get(name)
    plan = ScoringPlan(models[name], inputs, outputs, ("id",), fixed_batch=fixed)
    expected, _ = run(plan, rows)
    table, _ = run(guarded(plan), rows)
    assert table.equals(expected)


def test_the_first_attempt_calls_the_model_in_its_own_process_and_later_ones_in_a_child(models):
    plan = ScoringPlan(models["linear"], X, Y, ("id",))
    off, always = replace(plan, on_error=ErrorPlan(guard="off")), guarded(plan)
    expected = [(plan, 0, Session), (plan, 1, GuardedSession), (off, 1, Session), (always, 0, GuardedSession)]
    for plan_, attempt, kind in expected:
        scorer = open_scorer(plan_, attempt=attempt)
        assert type(scorer.session) is kind
        assert list(scorer.score([])) == []  # a partition without rows ends its child too


@pytest.mark.slow
def test_a_model_that_kills_whatever_it_is_fed_is_a_model_failure_and_no_row_is_blamed(models, plant):
    plant(KILLS_ALWAYS)
    plan = guarded(ScoringPlan(models["linear"], X, Y, ("id",)))
    with pytest.raises(SparkscoreError, match="never scored one") as caught:
        run(plan, batch(**numbers(100)))
    assert caught.value.code == "SPS-MODEL-CRASH"


def test_a_model_that_ends_its_process_while_it_loads_is_a_model_failure_at_once(models, plant):
    plant(KILLS_AT_LOAD)
    plan = guarded(ScoringPlan(models["linear"], X, Y, ("id",)))
    with pytest.raises(SparkscoreError, match="exit code 7 while it loaded") as caught:
        run(plan, batch(**numbers(100)))
    assert caught.value.code == "SPS-MODEL-CRASH"


@pytest.mark.slow
def test_more_deaths_than_max_guard_deaths_end_the_task(models, plant):
    plant(KILLS_BUT_ZEROS)  # rows kill, and the known-good input does not
    scorer = open_scorer(guarded(ScoringPlan(models["linear"], X, Y, ("id",)), max_guard_deaths=4))
    with pytest.raises(SparkscoreError, match="at most 4 guarded processes") as caught:
        list(scorer.score([batch(**numbers(20, start=1))]))
    assert caught.value.code == "SPS-MODEL-CRASH"
    assert scorer.session.deaths == 5


def test_what_the_child_refuses_to_load_is_the_same_error_as_without_it(tmp_path):
    ref = graphs.write(tmp_path / "broken", b"no model")
    with pytest.raises(SparkscoreError) as caught:
        open_scorer(guarded(ScoringPlan(ref, X, Y, ("id",))))
    assert caught.value.code == "SPS-MODEL-FORMAT"


def test_the_child_is_bounded_in_memory_dies_before_the_worker_and_leaves_no_core(models):
    before = children()
    session = GuardedSession(models["linear"], SessionPlan(), Path(models["linear"].location))
    (pid,) = children() - before
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    assert [line.split()[3] != "unlimited" for line in limits if line.startswith("Max address space")] == [True]
    assert [line.split()[4] for line in limits if line.startswith("Max core file size")] == ["0"]
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    session.close()


@pytest.mark.parametrize(
    "code, memory_was_full, expected",
    [
        (-11, True, "P4"),
        (-6, False, "P4"),
        (-9, True, "P5"),
        (-9, False, "P6"),
        (1, True, "P5"),
        (0, False, "P6"),
        (-40, False, "P6"),
    ],
)
def test_a_death_is_native_code_s_memory_s_or_neither_s(code, memory_was_full, expected):
    assert guard.death(code, memory_was_full).error_class == expected


HANGS = """
import sys
from pathlib import Path
import numpy as np
from sparkscore.runtime.guard import GuardedSession
from sparkscore.spec.scoring import SessionPlan
from tests.scoring import graphs
folder = Path(sys.argv[1])
session = GuardedSession(graphs.pin(folder), SessionPlan(), folder)
print("ready", flush=True)
session.run({"x": np.full((1, 2), -5, np.float32)}, ["y"])
"""


def test_the_child_ends_with_its_parent_in_the_middle_of_a_call(models, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(PLANT)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-c", HANGS, models["linear"].location]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout.readline() == b"ready\n"
        (child,) = children(parent.pid)
        ended = select.poll()
        ended.register(os.pidfd_open(int(child)), select.POLLIN)
        assert ended.poll(0) == []
        parent.kill()
        assert len(ended.poll(20_000)) == 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.array([[True], [False]]),
        np.arange(24, dtype=np.int64).reshape(2, 3, 4)[:, ::2].T,
        np.float32(3.5) * np.ones(()),
        np.zeros((0, 4), np.float32),
        np.array([["a", ""], ["Ä", "\N{SNOWMAN}"]], dtype=object),
        np.empty((0,), dtype=object),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
@pytest.mark.parametrize("by_memory", [False, True])
def test_a_tensor_crosses_with_its_type_shape_and_bits(array, by_memory, tmp_path):
    mine = SharedMemory() if by_memory else None
    theirs = SharedMemory(os.dup(mine.descriptor)) if by_memory else None
    with (tmp_path / "pipe").open("w+b") as pipe:
        for n in range(2):
            send(pipe, pack({"n": n}, {"t": array, "map": [{1: 2.0}], "more": np.full(n * 10**6, n)}, mine))
            pipe.seek(0)
            head, tensors = receive(pipe, theirs)
            assert (head, tensors["map"]) == ({"n": n}, None)
            assert (tensors["t"].dtype, tensors["t"].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(tensors["t"], array)
            np.testing.assert_array_equal(tensors["more"], np.full(n * 10**6, n))  # memory grows with the message
            pipe.seek(0)
            pipe.truncate()


def test_memory_that_another_process_reads_cannot_be_taken_away():
    memory = SharedMemory()
    memory.put({"x": np.ones(10)})
    with pytest.raises(PermissionError):
        os.ftruncate(memory.descriptor, 0)
    memory.close()


def test_half_a_message_is_no_message(tmp_path):
    (tmp_path / "pipe").write_bytes(pack({}, {"t": np.ones(4)})[:-1])
    with (tmp_path / "pipe").open("rb") as pipe, pytest.raises(OSError, match="31 of 32 bytes"):
        receive(pipe)


def test_a_text_that_is_not_unicode_is_the_error_that_onnx_runtime_gives_for_it():
    with pytest.raises(UnicodeEncodeError):
        pack({}, {"t": np.array(["\ud800"], object)})
