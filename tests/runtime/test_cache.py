"""The node's cache: exactly the pinned bytes, published once, whatever races, dies or damages it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import cache
from sparkscore.spec.scoring import ModelFile, ModelRef


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "m.onnx").write_bytes(b"graph")
    (folder / "sub" / "w.bin").write_bytes(bytes(1000))
    (folder / "README").write_bytes(b"not of the manifest")
    return folder


def pinned(folder, *names, location=None):
    files = []
    for name in names or ("m.onnx", "sub/w.bin"):
        data = (folder / name).read_bytes()
        files.append(ModelFile(name, len(data), hashlib.sha256(data).hexdigest()))
    return ModelRef("uri", "1", cache.manifest_sha256(files), location or str(folder), "m.onnx", tuple(files))


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def code_of(call, *args):
    with pytest.raises(SparkscoreError) as caught:
        call(*args)
    return caught.value.code


def test_the_digest_is_sha256_of_the_canonical_manifest():
    files = [ModelFile("b", 2, "22", "s3://anywhere"), ModelFile("a", 1, "11")]
    expected = hashlib.sha256(json.dumps([["a", 1, "11"], ["b", 2, "22"]], separators=(",", ":")).encode())
    assert cache.manifest_sha256(files) == expected.hexdigest() == cache.manifest_sha256(files[::-1])


def test_the_cache_is_where_the_environment_says_else_below_home(monkeypatch, tmp_path):
    assert cache.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("SPARKSCORE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "sparkscore"


def test_a_folder_holds_exactly_the_pinned_files_for_this_user_alone(source, root):
    folder = cache.local_folder(pinned(source))
    assert content(folder) == {"m.onnx": b"graph", "sub/w.bin": bytes(1000)}
    for private in (folder, root / "models", root / "locks"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_a_cached_model_needs_its_source_no_more(source):
    ref = pinned(source)
    folder = cache.local_folder(ref)
    (source / "m.onnx").unlink()
    assert cache.local_folder(ref) == folder


def test_files_that_the_driver_handed_out_come_from_there_encoders_too(source, tmp_path):
    ref = pinned(source, location="artifact:models:/fraud/7")
    elsewhere = ModelFile("sub/w.bin", 1000, ref.files[1].sha256, str(tmp_path / "not reached from here"))
    ref = ModelRef(ref.uri, ref.version, ref.sha256, ref.location, ref.main, (ref.files[0], elsewhere))
    assert content(cache.local_folder(ref, lambda file: f"{source}/{file.path}"))["sub/w.bin"] == bytes(1000)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_to_hand_out_has_one_place_whatever_the_disk_can_link(source, root, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "other device")))
    folder = cache.local_folder(pinned(source))
    places = {cache.to_hand_out(folder / "m.onnx", "name-0") for _ in range(2)}
    assert places == {root / "handed-out" / "name-0"}
    assert places.pop().read_bytes() == b"graph"
    assert not list((root / "models").glob(".fresh-*"))


def test_an_encoder_is_fetched_from_its_own_source(source, tmp_path):
    (tmp_path / "v.txt").write_bytes(b"AA\nB6\n")
    file = ModelFile("encoders/0-v.txt", 6, hashlib.sha256(b"AA\nB6\n").hexdigest(), str(tmp_path / "v.txt"))
    files = (*pinned(source).files, file)
    ref = ModelRef("uri", "1", cache.manifest_sha256(files), str(source), "m.onnx", files)
    assert content(cache.local_folder(ref))["encoders/0-v.txt"] == b"AA\nB6\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "m.onnx").write_bytes(b"grapH"),
        lambda folder: (folder / "m.onnx").write_bytes(b""),
        lambda folder: (folder / "sub" / "w.bin").unlink(),
    ],
    ids=["other bytes", "cut short", "file gone"],
)
def test_a_damaged_copy_is_fetched_again(source, damage):
    ref = pinned(source)
    damage(cache.local_folder(ref))
    assert content(cache.local_folder(ref)) == {"m.onnx": b"graph", "sub/w.bin": bytes(1000)}


def test_a_source_that_changed_after_pinning_is_refused_and_not_published(source, root):
    ref = pinned(source)
    (source / "m.onnx").write_bytes(b"grapH")
    assert code_of(cache.local_folder, ref) == "SPS-MODEL-DIGEST"
    assert list((root / "models").iterdir()) == []


def test_a_source_that_is_gone_is_missing(source):
    ref = pinned(source)
    (source / "sub" / "w.bin").unlink()
    assert code_of(cache.local_folder, ref) == "SPS-MODEL-MISSING"


def test_a_cache_that_cannot_be_written_names_the_variable(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(SparkscoreError, match=r"\[SPS-ENV-ACCESS\].*Set SPARKSCORE_CACHE"):
        cache.local_folder(pinned(source))


def test_a_full_disk_is_named(source):
    with pytest.raises(SparkscoreError, match=r"\[SPS-ENV-ACCESS\].*No space left"):
        cache.copy_hashed(str(source / "m.onnx"), Path("/dev/full"))


def test_a_file_longer_than_a_chunk_is_copied_and_hashed_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK_BYTES", 7)
    data = os.urandom(100)
    (tmp_path / "a").write_bytes(data)
    assert cache.copy_hashed(str(tmp_path / "a"), tmp_path / "b") == (100, hashlib.sha256(data).hexdigest())
    assert (tmp_path / "b").read_bytes() == data


def test_small_models_are_hashed_at_each_call_and_large_ones_once_a_process(source, monkeypatch):
    ref = pinned(source)
    folder = cache.local_folder(ref)
    hashed = []
    monkeypatch.setattr(
        cache, "_sha256", lambda path: hashed.append(path.name) or hashlib.sha256(path.read_bytes()).hexdigest()
    )
    cache.local_folder(ref)
    cache.local_folder(ref)
    assert hashed == ["m.onnx", "w.bin"] * 2
    monkeypatch.setattr(cache, "_VERIFY_EACH_TIME_BYTES", 1004)
    cache.local_folder(ref)
    cache.local_folder(ref)
    assert hashed == ["m.onnx", "w.bin"] * 3
    (folder / "m.onnx").write_bytes(b"")
    assert content(cache.local_folder(ref))["m.onnx"] == b"graph"  # sizes are looked at each time


def test_a_large_model_just_copied_is_not_hashed_again(source, monkeypatch):
    monkeypatch.setattr(cache, "_VERIFY_EACH_TIME_BYTES", 100)
    ref = pinned(source)
    cache.local_folder(ref)
    monkeypatch.setattr(cache, "_sha256", lambda path: pytest.fail(f"{path} hashed again"))
    cache.local_folder(ref)


def test_what_a_killed_process_left_is_swept_after_a_day_and_not_before(source, root):
    old, young = root / "models" / ".fresh-old", root / "models" / ".fresh-young"
    for folder in (old, young):
        (folder / "model").mkdir(parents=True)
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    cache.local_folder(pinned(source))
    assert not old.exists()
    assert young.exists()


RACER = textwrap.dedent("""
    import pickle, sys, time
    from sparkscore.runtime import cache, files
    ref, go = pickle.loads(bytes.fromhex(sys.argv[1])), float(sys.argv[2])
    copies = []
    real = files.read_chunks
    def counted(uri, chunk_bytes):
        copies.append(uri)
        for chunk in real(uri, chunk_bytes):
            time.sleep(0.02)
            yield chunk
    files.read_chunks = counted
    cache._CHUNK_BYTES = 100
    time.sleep(max(0, go - time.time()))
    folder = cache.local_folder(ref)
    print(len(copies), (folder / "sub" / "w.bin").stat().st_size, (folder / "m.onnx").read_text())
""")


def race(ref, n):
    arguments = [pickle.dumps(ref).hex(), str(time.time() + 1.5)]
    return [subprocess.Popen([sys.executable, "-c", RACER, *arguments], stdout=subprocess.PIPE) for _ in range(n)]


def test_processes_that_race_fetch_once_and_all_get_the_whole_model(source, root):
    outs = [racer.communicate(timeout=60)[0].decode().split() for racer in race(pinned(source), 4)]
    assert sorted(outs) == [["0", "1000", "graph"]] * 3 + [["2", "1000", "graph"]]
    assert [p.name for p in (root / "models").iterdir()] == [pinned(source).sha256]


def test_a_process_killed_while_it_fetches_blocks_nobody_and_publishes_nothing(source, root):
    ref = pinned(source)
    (racer,) = race(ref, 1)
    while not list((root / "models").glob(".fresh-*/model/sub/w.bin")):
        assert racer.poll() is None
        time.sleep(0.005)
    racer.kill()
    racer.communicate()
    assert not (root / "models" / ref.sha256).exists()
    assert content(cache.local_folder(ref)) == {"m.onnx": b"graph", "sub/w.bin": bytes(1000)}


@pytest.mark.slow
def test_a_file_of_more_than_2_gib_is_streamed_whole(tmp_path):
    size = (2 << 30) + 4096
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(size)  # sparse: it takes no room
    of_zeros = "d702231a97a4e742e747bd3fdc81d8d1b604378660d5fc38934b865ca2a9d6d1"  # head -c 2147487744 /dev/zero
    assert cache.copy_hashed(str(tmp_path / "w.bin"), Path(os.devnull)) == (size, of_zeros)
