"""The write-once primitive: one winner, whole content, and clear errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.store import LocalStore, open_store


def test_a_folder_lists_finished_objects_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_if_absent("a/2.json", b"x")
    store.put("a/1.json", b"x")
    (tmp_path / "a" / ".half-written").write_bytes(b"x")
    assert store.names("a") == ["1.json", "2.json"]


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
        open_store("gs://bucket/ledger")
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-LEDGER.*hdfs://namenode/folder"):
        open_store("hdfs://namenode/")
