"""What every kind of store promises: one winner of a name, whole objects, and listings of one folder."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sparkscore.ledger.store import Store

NAMES, PROCESSES, THREADS = 20, 3, 8
SCRIPT = f"""
import sys
from sparkscore.ledger.store import open_store
store = open_store(sys.argv[1])
store.put_if_absent(f"ready/{{sys.argv[2]}}", b"")
while len(store.names("ready")) < {PROCESSES}:
    pass
print("".join("01"[store.put_if_absent(f"race/{{i}}", sys.argv[2].encode() * 5000)] for i in range({NAMES})))
"""


def test_the_second_put_of_a_name_is_refused_and_changes_nothing(store: Store) -> None:
    assert store.put_if_absent("a/b.json", b"first")
    assert not store.put_if_absent("a/b.json", b"second")
    assert store.get("a/b.json") == b"first"


def test_the_same_bytes_again_are_refused_too(store: Store) -> None:
    assert store.put_if_absent("a/b.json", b"first")
    assert not store.put_if_absent("a/b.json", b"first")


def test_a_put_replaces_what_is_there_and_is_read_at_once(store: Store) -> None:
    for data in (b"1", b"", b"3" * 100_000):
        store.put("heartbeat/r.json", data)
        assert store.get("heartbeat/r.json") == data
    assert not store.put_if_absent("heartbeat/r.json", b"x")


def test_what_is_not_there_is_none_and_an_empty_list(store: Store) -> None:
    assert store.get("a/3.json") is None
    assert store.names("nowhere") == []


def test_a_folder_lists_its_own_names_sorted_and_its_folders_by_name(store: Store) -> None:
    for name in ("a/2.json", "a/10.json", "a/1.json", "a/deeper/x.json", "ab/y.json"):
        store.put(name, b"x")
    assert store.names("a") == ["1.json", "10.json", "2.json", "deeper"]


def test_a_long_folder_is_listed_to_its_end(store: Store) -> None:
    names = [f"{i:02d}.json" for i in range(12)]  # pages of 5 on this HDFS
    for name in names:
        store.put(f"many/{name}", b"x")
    assert store.names("many") == names


def test_racing_threads_of_one_store_have_one_winner(store: Store) -> None:
    begin = Barrier(THREADS)

    def race(number: int) -> list[bool]:
        begin.wait()
        return [store.put_if_absent(f"race/{i}", str(number).encode() * 5000) for i in range(NAMES)]

    with ThreadPoolExecutor(THREADS) as pool:
        wins = list(pool.map(race, range(THREADS)))
    for i in range(NAMES):
        (winner,) = [n for n in range(THREADS) if wins[n][i]]
        assert store.get(f"race/{i}") == str(winner).encode() * 5000


def test_racing_processes_have_one_winner_with_whole_content(root: str, store: Store) -> None:
    command = [sys.executable, "-c", SCRIPT, root]
    racers = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(PROCESSES)
    ]
    told = [racer.communicate(timeout=120) for racer in racers]
    wins = [out.strip() for out, _ in told]
    assert [len(w) for w in wins] == [NAMES] * PROCESSES, told
    for i in range(NAMES):
        (winner,) = [n for n in range(PROCESSES) if wins[n][i] == "1"]
        assert store.get(f"race/{i}") == str(winner).encode() * 5000
