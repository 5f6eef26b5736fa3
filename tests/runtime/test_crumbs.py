"""What a worker was doing is read after any death of its process, and tells what it died of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest

from sparkscore.runtime.crumbs import Crumb, dead_workers, death_class, evidence_of
from sparkscore.scoring.intake import Ends, pointers
from sparkscore.spec.scoring import BLOCK_COL, FILE_COL, ROW_COL
from tests import kernel

# Forks a process for each death that stdin names, one after another, and says what evidence tells of each.
DIE = """
import json, os, random, resource, signal, sys, time
from pathlib import Path
from sparkscore.runtime.crumbs import Crumb, dead_workers, death_class
from sparkscore.runtime.memory import memory_limit_bytes
from sparkscore.runtime.watchdog import Watch, watchdog

folder = Path(sys.argv[1]) / "blockmgr-1"

def die(kind):
    if kind == "address space full":
        resource.setrlimit(resource.RLIMIT_AS, (250 << 20, resource.RLIM_INFINITY))
    crumb = Crumb(folder, {"ledger": "l", "run_id": "r"})
    watchdog().last_words = crumb.stuck
    for batch in range(chance.randrange(1, 9)):
        crumb.begin(10, (f"f#{batch * 10}", f"f#{batch * 10 + 9}"), 10, 0)
        crumb.call()
    time.sleep(chance.random() / 50)
    hoard, batch = [], batch + 1
    try:
        if kind == "group full":  # at one stroke: the crumb knows nothing of it, the kernel does
            hoard.append(bytearray(os.urandom(1) * (400 << 20)))
        while kind == "address space full":
            hoard.append(bytearray(os.urandom(1) * (1 << 20)))
            time.sleep(0.001)  # a batch of a worker takes longer
            crumb.begin(10, (f"f#{batch * 10}", f"f#{batch * 10 + 9}"), 10, 0)
            batch += 1
    except MemoryError:
        os._exit(1)
    if kind == "call stuck":
        watchdog().start(Watch(lambda: None), 0.0, 0.0)
        time.sleep(60)
    if kind == "exit":
        os._exit(0)
    os.kill(os.getpid(), getattr(signal, kind))

chance = random.Random(sys.argv[2])
limit = memory_limit_bytes()
for kind in json.load(sys.stdin):
    pid = os.fork()
    if pid == 0:
        die(kind)
    os.waitpid(pid, 0)
    found = [(name, e["batch_seq"] > 0 and e["first_pointer"] == f"f#{e['batch_seq'] * 10 - 10}", death_class(e))
             for name, e in dead_workers(folder, "l")]
    print(json.dumps([kind, found, limit]))
"""
CLASSES = {
    "SIGSEGV": "P4",
    "SIGABRT": "P4",
    "SIGBUS": "P4",
    "SIGKILL": "P6",
    "SIGTERM": "P6",
    "exit": "P6",
    "call stuck": "P8",
    "address space full": "P5",
    "group full": "P5",
}
EACH = 6  # deaths of each kind
GROUP_BYTES = 200 * 2**20


@pytest.mark.slow
def test_p4_p5_p6_and_p8_are_told_apart_by_what_the_dead_leave(tmp_path: Path) -> None:
    with ExitStack() as stack:
        group = kernel.memory_group("sparkscore-crumbs", GROUP_BYTES, stack)
        kinds = [kind for kind in CLASSES if group is not None or kind != "group full"] * EACH
        kinds = [kinds[i * 7 % len(kinds)] for i in range(len(kinds))]  # no two of a kind in a row
        command = [sys.executable, "-c", DIE, str(tmp_path), "7"]
        if group is not None:
            command = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group), *command]
        done = subprocess.run(command, input=json.dumps(kinds), capture_output=True, text=True, timeout=120)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(kinds), done.stderr[-2000:]
    right = Counter(kind for kind, found, _ in told if [f[1:] for f in found] == [[True, CLASSES[kind]]])
    assert sum(right.values()) >= 0.95 * len(kinds), (right, told)
    assert {kind: right[kind] >= EACH - 1 for kind in kinds} == dict.fromkeys(kinds, True)
    assert len({found[0][0] for _, found, _ in told}) == len(kinds)  # a name each
    if group is not None:
        assert {limit for _, _, limit in told} == {GROUP_BYTES}
    assert list(tmp_path.rglob("*.crumb")) == list(tmp_path.rglob("*.fault")) == []


@pytest.mark.parametrize(
    "evidence, expected",
    [
        ({"fault_text": "Fatal Python error: Segmentation fault", "rss_bytes": 99}, "P4"),
        ({"fault_text": "Thread 0x1 (most recent call first)"}, "P6"),
        ({"oom_kills_now": 4}, "P5"),
        ({"oom_kills_now": 4, "oom_kills": 4}, "P6"),  # an older kill, which the crumb has seen itself
        ({"rss_bytes": 90}, "P5"),
        ({"rss_peak_bytes": 90}, "P5"),
        ({"rss_bytes": 89}, "P6"),
        ({"address_bytes": 900, "address_limit_bytes": 1000}, "P5"),
        ({"address_bytes": 900, "address_limit_bytes": None}, "P6"),
        ({"last_error_code": "SPS-ROW-TIMEOUT", "fault_text": "Fatal Python error: Aborted"}, "P8"),
    ],
)
def test_a_death_is_a_fault_s_memory_s_a_call_s_or_nobody_s(evidence, expected) -> None:
    plain = {"fault_text": None, "last_error_code": None, "oom_kills": 3, "oom_kills_at_start": 3, "oom_kills_now": 3}
    plain |= {"rss_bytes": 1, "rss_peak_bytes": 1, "memory_limit_bytes": 100}
    plain |= {"address_bytes": 500, "address_limit_bytes": 1000}
    assert death_class({**plain, **evidence}) == expected


def crumb(folder: Path, **about) -> Crumb:
    made = Crumb(folder / "blockmgr-1", {"ledger": "l", "run_id": "r", **about})
    made.loaded("CPUExecutionProvider", {"numpy": "2"})
    return made


def content(folder: Path) -> bytes:
    (file,) = folder.rglob("*.crumb")
    return file.read_bytes()


def test_a_crumb_holds_what_is_done_since_when_and_on_which_rows(tmp_path: Path) -> None:
    made = crumb(tmp_path, unit_seq=3)
    made.begin(8192, ("f#0", "f#8191"), 8192, 1)
    made.call()
    made.begin(100, ("f#8192", None), 8192, 2)
    found = evidence_of(content(tmp_path), 0)
    assert len(content(tmp_path)) == 4096
    assert (found["run_id"], found["unit_seq"], found["pid"], found["phase"]) == ("r", 3, os.getpid(), "pre")
    assert (found["batch_seq"], found["batch_rows"], found["target_batch_rows"], found["oom_halvings"]) == (
        2,
        100,
        8192,
        2,
    )
    assert (found["first_pointer"], found["last_pointer"]) == ("f#8192", None)
    assert found["provider"] == "CPUExecutionProvider"
    assert found["started_at"] <= found["call_started_at"] <= found["written_at"]
    assert 2**20 < found["rss_bytes"] < found["memory_limit_bytes"]
    assert not found["torn"]
    made.close()
    assert list(tmp_path.rglob("*.*")) == []


def test_a_write_that_death_tears_apart_leaves_the_batch_before_it(tmp_path: Path) -> None:
    made = crumb(tmp_path)
    made.begin(10, ("f#0", "f#9"), 10, 0)
    before = content(tmp_path)
    made.begin(10, ("a/longer/name/of/a/file#10", "f#19"), 10, 0)
    after = content(tmp_path)
    changed = [i for i in range(2048, 4096) if before[i] != after[i]]
    assert evidence_of(after, 0)["batch_seq"] == 2
    for torn_at in changed[1:]:  # all bytes before this one are new, the others old
        found = evidence_of(after[:torn_at] + before[torn_at:], 0)
        whole = found["batch_seq"] == 2
        assert (found["first_pointer"], found["torn"]) == (
            ("a/longer/name/of/a/file#10", False) if whole else ("f#0", True)
        )
    made.close()
    assert evidence_of(bytes(4096), 0) is None
    assert evidence_of(after[:100], 0) is None


def test_a_crumb_that_is_read_while_it_is_written_is_of_one_moment(tmp_path: Path) -> None:
    made = crumb(tmp_path)
    stop = threading.Event()

    def write() -> None:
        batch = 0
        while not stop.is_set():
            batch += 1
            made.begin(batch, (f"f#{batch}", f"{'x' * (batch % 300)}#{batch}"), 10, 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = set()
        while len(seen) < 40:
            found = evidence_of(content(tmp_path), 0)
            if found["batch_seq"]:
                batch = str(found["batch_rows"])
                assert (found["first_pointer"], found["last_pointer"].split("#")[1]) == (f"f#{batch}", batch)
                seen.add(batch)
    finally:
        stop.set()
        writer.join()
        made.close()


def test_only_the_dead_are_harvested_whoever_has_their_pid_now(tmp_path: Path) -> None:
    made = crumb(tmp_path)
    (alive,) = tmp_path.rglob("*.crumb")
    dead = tmp_path / "blockmgr-2" / alive.parent.name / f"{os.getpid()}-1.crumb"  # a neighbour's, with our pid
    dead.parent.mkdir(parents=True)
    dead.write_bytes(alive.read_bytes())
    mine = tmp_path / "blockmgr-1"
    assert list(dead_workers(mine, "another ledger")) == []
    assert dead.exists()
    assert [name for name, _ in dead_workers(mine, "l")] == [
        f"{evidence_of(alive.read_bytes(), 0)['host']}-{dead.stem}"
    ]
    assert (alive.exists(), dead.exists()) == (True, False)
    made.close()


def test_evidence_that_cannot_be_kept_leaves_the_crumb(tmp_path: Path) -> None:
    made = crumb(tmp_path)
    (alive,) = tmp_path.rglob("*.crumb")
    dead = alive.with_name("1-1.crumb")
    dead.write_bytes(alive.read_bytes())
    harvest = dead_workers(tmp_path / "blockmgr-1", "l")
    next(harvest)
    harvest.close()  # as an exception of its user does
    assert dead.exists()
    made.close()


@pytest.mark.parametrize(
    "columns",
    [
        {FILE_COL: ["a", "b", "b"], ROW_COL: [5, 0, 1]},
        {FILE_COL: ["a", "b", "b"], ROW_COL: [None, 0, 1]},
        {FILE_COL: ["a", "b", "b"], ROW_COL: [None] * 3, BLOCK_COL: [0, 7, 7], "_ss_ordinal": [4, 0, 1]},
        {FILE_COL: [None, "b", None], ROW_COL: [1, 2, 3]},
        {"x": [1.0, 2.0, 3.0]},
    ],
    ids=str,
)
def test_the_ends_of_a_batch_are_the_addresses_of_its_first_and_last_row(columns) -> None:
    batch = pa.RecordBatch.from_pydict(columns)
    every = pointers(batch).to_pylist()
    assert Ends(batch.schema).of(batch) == (every[0], every[-1])
