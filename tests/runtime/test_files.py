"""Files by URI: every scheme that a worker reads, and one clear error for each way that a store refuses."""

from __future__ import annotations

import getpass
import gzip
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import files


def code_of(call, *args):
    with pytest.raises(SparkscoreError) as caught:
        call(*args)
    return caught.value.code


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/m/a.onnx", "/m/a.onnx"),
        ("m/a.onnx", "m/a.onnx"),
        ("m/a:b.onnx", "m/a:b.onnx"),
        ("file:/m/a.onnx", "/m/a.onnx"),
        ("file:///m/a%20b.onnx", "/m/a%20b.onnx"),
        ("dbfs:/m/a.onnx", "/dbfs/m/a.onnx"),
        ("dbfs:/Volumes/c/s/v/a.onnx", "/Volumes/c/s/v/a.onnx"),
        ("/Volumes/c/s/v/a.onnx", "/Volumes/c/s/v/a.onnx"),
        ("s3://b/a.onnx", None),
        ("s3a://b/a.onnx", None),
        ("hdfs://nn:8020/a.onnx", None),
    ],
)
def test_a_uri_on_a_mounted_disk_is_a_path(uri, path):
    assert files.local_path(uri) == (None if path is None else Path(path))


@pytest.mark.parametrize("name", ["plain.bin", "with space", "per%20cent", "ünï.bin", "a#b?c"])
@pytest.mark.parametrize("scheme", ["", "file:", "file://"])
def test_bytes_come_back_as_they_were_written(tmp_path, scheme, name):
    uri = f"{scheme}{tmp_path}/new/folder/{name}"
    files.write_bytes(uri, b"\x00\xff")
    assert files.read_bytes(uri) == b"\x00\xff"
    assert (tmp_path / "new" / "folder" / name).read_bytes() == b"\x00\xff"


def test_a_compressed_file_is_read_as_its_own_bytes(tmp_path):
    packed = gzip.compress(b"text")
    (tmp_path / "a.gz").write_bytes(packed)
    assert files.read_bytes(str(tmp_path / "a.gz")) == packed


def test_chunks_add_up_to_the_file_and_none_is_longer(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)))
    chunks = list(files.read_chunks(str(tmp_path / "a"), 100))
    assert [len(c) for c in chunks] == [100, 100, 56]
    assert b"".join(chunks) == bytes(range(256))


def test_a_missing_file_stays_a_file_not_found_error(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for place in (tmp_path / "none", tmp_path / "file" / "below", tmp_path):
        with pytest.raises(FileNotFoundError):
            files.read_bytes(str(place))


def test_a_pipe_is_no_file_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        files.read_bytes(str(tmp_path / "pipe"))
    assert files.list_files(str(tmp_path / "pipe")) == []


def test_stat_answers_in_the_order_asked_with_none_for_what_is_missing(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    os.utime(tmp_path / "a", ns=(7, 1_700_000_000_123_456_789))
    found = files.stat([str(tmp_path / "none"), f"file:{tmp_path}/a", str(tmp_path)])
    assert found[0] is None
    assert found[1] == files.FileStat(f"file:{tmp_path}/a", 3, 1_700_000_000_123_456_789)
    assert found[2] is not None


def test_a_folder_is_listed_below_or_flat_and_a_file_lists_itself(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"22")
    (tmp_path / "a").write_bytes(b"1")
    uri = f"file://{tmp_path}/"
    assert [(f.uri, f.size_bytes) for f in files.list_files(uri)] == [(f"{uri}a", 1), (f"{uri}b/c", 2)]
    assert [f.uri for f in files.list_files(uri, recursive=False)] == [f"{uri}a"]
    assert [f.uri for f in files.list_files(f"{uri}a")] == [f"{uri}a"]
    assert files.list_files(f"{uri}none") == []


@pytest.mark.parametrize("uri", ["gs://b/a", "ftp://h/a", "s3:///a", "s3:a", "hdfs:///a", "s3://b/a//b", "/a\0b"])
def test_a_uri_that_nothing_can_read_is_an_environment_error(monkeypatch, uri):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert code_of(files.read_bytes, uri) == "SPS-ENV-SOURCE"


def test_hdfs_goes_to_the_namenodes_http_port_as_the_user_that_spark_is(monkeypatch):
    monkeypatch.setenv("SPARKSCORE_WEBHDFS_PORT", "19870")
    monkeypatch.setenv("HADOOP_USER_NAME", "ada")
    handle, path = files.filesystem("hdfs://namenode:8020/models/a%20b/m.onnx")
    assert path == "/models/a%20b/m.onnx"
    assert (handle.handler.fs.host, handle.handler.fs.port, handle.handler.fs.user) == ("namenode", 19870, "ada")
    monkeypatch.delenv("HADOOP_USER_NAME")
    monkeypatch.setenv("SPARK_USER", "grace")
    assert files.webhdfs("namenode").user == "grace"
    monkeypatch.delenv("SPARK_USER")
    assert files.webhdfs("namenode").user == getpass.getuser()


@pytest.mark.parametrize("port", ["", "0", "70000", "9870/x", "١"])
def test_a_webhdfs_port_that_is_none_is_named(monkeypatch, port):
    monkeypatch.setenv("SPARKSCORE_WEBHDFS_PORT", port)
    assert code_of(files.read_bytes, "hdfs://namenode/a") == "SPS-ENV-SOURCE"


def test_a_store_that_does_not_answer_is_named_with_the_file(monkeypatch):
    monkeypatch.setattr("sparkscore.runtime.webhdfs._FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("SPARKSCORE_WEBHDFS_PORT", "1")
    with pytest.raises(SparkscoreError, match=r"SPS-CLUSTER-STORAGE.*hdfs://127\.0\.0\.1/a.*127\.0\.0\.1:1.*Refused"):
        files.read_bytes("hdfs://127.0.0.1/a")


@pytest.mark.hdfs
@pytest.mark.slow
def test_hdfs_gives_back_what_was_written(hdfs):
    folder = f"{hdfs.root}/files"
    uri = f"{folder}/deep/x y%20+;?#&=é.bin"
    for data in (b"12", b"", b"345"):
        files.write_bytes(uri, data)
        assert files.read_bytes(uri) == data
    found, missing = files.stat([uri, f"{uri}.none"])
    assert (found.uri, found.size_bytes, missing) == (uri, 3, None)
    assert abs(found.mtime_ns / 1e9 - time.time()) < 60
    for i in range(12):  # pages of 5
        files.write_bytes(f"{folder}/many/{i:02d}", b"")
    assert [f.uri for f in files.list_files(folder)] == [uri, *(f"{folder}/many/{i:02d}" for i in range(12))]
    assert files.list_files(folder, recursive=False) == []
    assert [f.uri for f in files.list_files(uri)] == [uri]
    assert files.list_files(f"{folder}/none") == []
    for missing in (f"{folder}/none", folder):
        with pytest.raises(FileNotFoundError):
            files.read_bytes(missing)


@pytest.mark.hdfs
@pytest.mark.slow
def test_a_file_on_hdfs_that_was_written_again_with_the_same_size_has_another_time(hdfs):
    uri = f"{hdfs.root}/files/again"
    files.write_bytes(uri, b"1")
    before = files.stat([uri])
    files.write_bytes(uri, b"2")
    assert files.stat([uri]) != before


@pytest.mark.hdfs
@pytest.mark.slow
def test_a_row_group_on_hdfs_is_read_by_its_pieces(hdfs):
    table = pa.table({"a": range(100_000), "b": [str(i) for i in range(100_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=10_000)
    uri = f"{hdfs.root}/files/t.parquet"
    files.write_bytes(uri, sink.getvalue().to_pybytes())
    filesystem, path = files.filesystem(uri)
    with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as parquet:
        assert parquet.read_row_group(7) == table.slice(70_000, 10_000)
        assert parquet.read() == table


@pytest.mark.hdfs
@pytest.mark.slow
def test_another_user_has_no_permission_on_hdfs(hdfs, monkeypatch):
    monkeypatch.setenv("HADOOP_USER_NAME", "mallory")
    assert code_of(files.write_bytes, f"{hdfs.root}/files/of-mallory", b"1") == "SPS-ENV-ACCESS"


@pytest.mark.s3
@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_s3_gives_back_what_was_written(s3, scheme):
    uri = f"{s3.bucket('files').replace('s3', scheme)}/deep/x y%20.bin"
    files.write_bytes(uri, b"123")
    assert files.read_bytes(uri) == b"123"
    assert (s3.folder / "files/deep/x y%20.bin").read_bytes() == b"123"
    found, missing = files.stat([uri, f"{uri}.none"])
    assert (found.uri, found.size_bytes, missing) == (uri, 3, None)
    assert found.mtime_ns > 0
    assert [f.uri for f in files.list_files(uri.rpartition("/")[0])] == [uri]


@pytest.mark.s3
def test_a_missing_object_or_bucket_is_a_file_not_found_error(s3):
    s3.bucket("empty")
    for uri in ("s3://empty/none", "s3://nobucket/none"):
        with pytest.raises(FileNotFoundError):
            files.read_bytes(uri)
        assert files.list_files(uri) == []


@pytest.mark.s3
def test_a_wrong_secret_is_no_permission(s3, monkeypatch):
    uri = f"{s3.bucket('secret')}/a"
    files.write_bytes(uri, b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert code_of(files.read_bytes, uri) == "SPS-ENV-ACCESS"
    assert code_of(files.stat, [uri]) == "SPS-ENV-ACCESS"
    assert code_of(files.list_files, "s3://secret") == "SPS-ENV-ACCESS"


@pytest.mark.slow
@pytest.mark.s3
def test_an_endpoint_that_does_not_answer_is_storage_not_permission(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(files, "_S3_TRIES", 2)  # of the six, which take 17 s
    assert code_of(files.stat, ["s3://b/403"]) == "SPS-CLUSTER-STORAGE"


_HDFS = pytest.param("hdfs", marks=[pytest.mark.hdfs, pytest.mark.slow])


def _root(request, tmp_path, kind):
    """Give a folder of the test's own in a kind of store."""
    if kind == "s3":
        return request.getfixturevalue("s3").bucket("moves").replace("s3", "s3a")
    return f"{request.getfixturevalue('hdfs').root}/{tmp_path.name}" if kind == "hdfs" else str(tmp_path)


@pytest.mark.parametrize("kind", ["disk", pytest.param("s3", marks=pytest.mark.s3), _HDFS])
def test_a_file_is_moved_with_its_bytes_and_deleted_once(request, tmp_path, kind):
    root = _root(request, tmp_path, kind)
    files.write_bytes(f"{root}/log/0.json", b"1")
    files.move(f"{root}/log/0.json", f"{root}/aside/deep/0.json")
    assert files.list_files(f"{root}/log") == []
    assert files.read_bytes(f"{root}/aside/deep/0.json") == b"1"
    files.delete(f"{root}/aside/deep/0.json")
    assert files.list_files(f"{root}/aside") == []
    with pytest.raises(FileNotFoundError):
        files.delete(f"{root}/aside/deep/0.json")


@pytest.mark.parametrize("kind", ["disk", _HDFS])
def test_a_folder_takes_a_free_name_with_all_that_is_in_it_and_goes_with_it(request, tmp_path, kind):
    root = _root(request, tmp_path, kind)
    for name in ("one/run_id=a%3Ab/x y.bin", "two/z.bin"):
        files.write_bytes(f"{root}/{name}", b"1")
    handle, path = files.filesystem(f"{root}/empty/below")
    handle.create_dir(path, recursive=True)
    handle.create_dir(path, recursive=True)
    files.move(f"{root}/one", f"{root}/empty/below")  # an empty folder gives its name up
    assert [f.uri for f in files.list_files(root)] == [f"{root}/empty/below/run_id=a%3Ab/x y.bin", f"{root}/two/z.bin"]
    assert files.stat([f"{root}/one"]) == [None]
    assert code_of(files.move, f"{root}/two", f"{root}/empty/below") == "SPS-CLUSTER-STORAGE"  # a full one does not
    with pytest.raises(FileNotFoundError):
        files.move(f"{root}/one", f"{root}/three")
    for _ in range(2):
        files.delete_folder(f"{root}/empty")
    assert [f.uri for f in files.list_files(root)] == [f"{root}/two/z.bin"]
