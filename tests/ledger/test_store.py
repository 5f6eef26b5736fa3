"""The write-once primitive: one winner, whole content, and clear errors."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.store import LocalStore, open_store


def test_the_second_put_of_a_name_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert store.put_if_absent("a/b.json", b"first")
    assert not store.put_if_absent("a/b.json", b"second")
    assert store.get("a/b.json") == b"first"


def test_a_folder_lists_finished_objects_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_if_absent("a/2.json", b"x")
    store.put("a/1.json", b"x")
    (tmp_path / "a" / ".half-written").write_bytes(b"x")
    assert store.names("a") == ["1.json", "2.json"]
    assert store.names("nowhere") == []
    assert store.get("a/3.json") is None


def test_racing_processes_have_one_winner_with_whole_content(tmp_path: Path) -> None:
    script = (
        "import sys; from sparkscore.ledger.store import LocalStore; s = LocalStore(sys.argv[1])\n"
        "print(''.join('1' if s.put_if_absent(f'race/{i}', sys.argv[2].encode() * 5000) else '0' for i in range(100)))"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    wins = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    for i in range(100):
        winners = [n for n in range(4) if wins[n][i] == "1"]
        assert len(winners) == 1
        assert (tmp_path / "race" / str(i)).read_bytes() == str(winners[0]).encode() * 5000


def test_a_ledger_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SparkscoreError, match=r"\[SPS-ENV-LEDGER\].*takes writes") as caught:
        LocalStore(tmp_path / "file").put_if_absent("x", b"")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.put("folder", b""),
        lambda store: store.get("folder"),
        lambda store: store.get("file/below"),
        lambda store: store.names("file"),
        lambda store: store.put_if_absent("file/below", b""),
    ],
    ids=["replace a folder", "read a folder", "read below a file", "list a file", "write below a file"],
)
def test_what_the_disk_refuses_is_an_error_of_the_ledger_and_leaves_nothing(tmp_path: Path, call) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-LEDGER") as caught:
        call(LocalStore(tmp_path))
    assert caught.value.exit_code == 4
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_without_hard_links_is_refused_and_shows_no_half_file(tmp_path: Path, monkeypatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-LEDGER.*hard links.*NFS"):
        LocalStore(tmp_path).put_if_absent("a/b.json", b"data")
    assert not list((tmp_path / "a").iterdir())


def test_file_uris_name_the_same_folder_and_other_schemes_are_refused(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}").root == str(tmp_path) == open_store(f"file:{tmp_path}").root
    with pytest.raises(SparkscoreError, match="SPS-SPEC-LATER"):
        open_store("s3a://bucket/ledger")
