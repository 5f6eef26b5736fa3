"""The ledger on a bad day of HDFS: lost answers, a NameNode that is busy or gone, no permission."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.hdfs_store import HdfsStore
from sparkscore.runtime import files
from tests.faults import FaultyProxy, faulty_proxy
from tests.hdfs import HdfsServer

pytestmark = [pytest.mark.hdfs, pytest.mark.slow]


@pytest.fixture
def proxy(hdfs: HdfsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the NameNode; DataNodes are reached without it."""
    monkeypatch.setattr("sparkscore.runtime.webhdfs._FIRST_WAIT_S", 0.01)
    with faulty_proxy(f"http://127.0.0.1:{hdfs.http_port}") as found:
        monkeypatch.setenv("SPARKSCORE_WEBHDFS_PORT", found.endpoint.rpartition(":")[2])
        yield found


@pytest.fixture
def store(hdfs: HdfsServer, proxy: FaultyProxy, tmp_path: Path) -> HdfsStore:
    return HdfsStore(f"{hdfs.root}/bad-days/{tmp_path.name}")


def test_a_rename_whose_answer_was_lost_is_known_as_ones_own(store: HdfsStore, proxy: FaultyProxy) -> None:
    proxy.faults = ["none", "lost"]
    assert store.put_if_absent("a", b"mine")
    assert [request.method for request in proxy.seen] == ["PUT", "PUT", "PUT", "GET"]


def test_a_name_that_another_took_is_not_ones_own_though_the_answer_was_lost(
    store: HdfsStore, proxy: FaultyProxy
) -> None:
    assert store.put_if_absent("a", b"the same")
    proxy.faults = ["none", "lost"]
    assert not store.put_if_absent("a", b"the same")


def test_a_move_or_removal_whose_answer_was_lost_was_made(
    store: HdfsStore, proxy: FaultyProxy, hdfs: HdfsServer, tmp_path: Path
) -> None:
    """The run's folder is shown, and taken back, by a rename."""
    assert store.put_if_absent("_ready/a", b"1")
    folder = f"{hdfs.root}/bad-days/{tmp_path.name}"
    proxy.faults = ["none", "lost"]  # the folder above is made first
    files.move(f"{folder}/_ready", f"{folder}/shown")
    assert [f.uri for f in files.list_files(folder)] == [f"{folder}/shown/a"]
    proxy.faults = ["none", "lost"]  # it is looked at first
    files.delete_folder(f"{folder}/shown")
    assert files.list_files(folder) == []
    assert not proxy.faults


def test_what_was_refused_leaves_no_file_behind(store: HdfsStore, hdfs: HdfsServer, tmp_path: Path) -> None:
    assert store.put_if_absent("a", b"1")
    assert not store.put_if_absent("a", b"2")
    store.put("a", b"3")
    below = files.list_files(f"{hdfs.root}/bad-days/{tmp_path.name}")
    assert [f.uri.rpartition("/")[2] for f in below] == ["a"]


def test_a_busy_namenode_and_answers_that_break_off_are_waited_out(store: HdfsStore, proxy: FaultyProxy) -> None:
    proxy.faults = ["503"] * 3 + ["none", "503"]
    assert store.put_if_absent("a/b", b"x")
    proxy.faults = ["broken", "lost", "503"]
    assert store.names("a") == ["b"]
    proxy.faults = ["503", "lost"]
    assert store.get("a/b") == b"x"
    assert not proxy.faults


def test_a_namenode_that_stays_busy_is_named(store: HdfsStore, proxy: FaultyProxy) -> None:
    for call in (lambda: store.get("a"), lambda: store.put("a", b""), lambda: store.names("a")):
        proxy.faults = ["503"] * 6
        with pytest.raises(SparkscoreError, match=r"SPS-CLUSTER-STORAGE.*HTTP status 503") as caught:
            call()
        assert caught.value.exit_code == 8


@pytest.mark.parametrize("call", [HdfsStore.put, HdfsStore.put_if_absent])
def test_another_user_has_no_permission(hdfs: HdfsServer, monkeypatch: pytest.MonkeyPatch, call) -> None:
    monkeypatch.setenv("HADOOP_USER_NAME", "mallory")
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-ACCESS.*AccessControlException, HTTP status 403") as caught:
        call(HdfsStore(f"{hdfs.root}/ledger-of-another"), "x", b"")
    assert caught.value.exit_code == 4
    assert "mallory" not in str(caught.value)


def test_a_name_below_a_file_is_an_error_of_the_ledger(store: HdfsStore) -> None:
    store.put("file", b"x")
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-LEDGER.*ParentNotDirectoryException"):
        store.put_if_absent("file/below", b"x")
