"""Weights that processes share: the same model, the same bits, proven by the model file, and written once a node."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import memory
from sparkscore.runtime import cache, weights
from sparkscore.runtime.loading import read_signature
from sparkscore.runtime.session import clear_sessions, open_session
from sparkscore.runtime.weights import shared_weights
from sparkscore.spec.scoring import ModelRef, SessionPlan
from tests.scoring import graphs

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(7)
UNNAMED = ModelRef("a model", "", "", "", "model.onnx", ())


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "MIN_MODEL_BYTES", 0)
    yield tmp_path / "cache"
    clear_sessions()


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def node(kind, inputs, output="y", **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def every_way():
    """Weights in every way that a file can hold them; only the first two, of no whole pages, are moved."""
    typed = helper.make_tensor("typed", FLOAT, [256, 256], normal(256 * 256).tolist())
    constant = numpy_helper.from_array(normal(256, 256), "c")
    nodes = [
        node("MatMul", ["x", "a"], "xa"),
        node("MatMul", ["xa", "b"], "xb"),
        node("MatMul", ["xb", "typed"], "xt"),
        node("Constant", [], "c", value=constant),
        node("MatMul", ["xt", "c"], "xc"),
        node("Add", ["xc", "small"]),
    ]
    held = [("a", normal(128, 257)), ("b", normal(257, 256)), ("small", normal(256))]
    model = onnx.load_from_string(
        graphs.graph(nodes, [("x", FLOAT, ["n", 128])], [("y", FLOAT, ["n", 256])], held),
    )
    model.graph.initializer.insert(1, typed)
    model.graph.initializer[0].doc_string = "of a"
    model.graph.doc_string = "after its weights"
    return model.SerializeToString()


def folded():
    """Convolution and normalisation become one when a session is made; so do a transposition and its MatMul."""
    nodes = [
        node("Conv", ["x", "k"], "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["conv", "scale", "bias", "mean", "var"], "norm"),
        node("GlobalAveragePool", ["norm"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Transpose", ["w"], "wt", perm=[1, 0]),
        node("MatMul", ["flat", "wt"]),
    ]
    channels = [(name, np.abs(normal(128)) + 1) for name in ("scale", "bias", "mean", "var")]
    held = [("k", normal(128, 64, 3, 3)), *channels, ("w", normal(256, 128))]
    return graphs.graph(nodes, [("x", FLOAT, ["n", 64, 8, 8])], [("y", FLOAT, ["n", 256])], held)


def quantised():
    held = [("w", RNG.integers(-127, 127, (256, 512)).astype(np.int8)), ("s", np.float32(0.01)), ("z", np.int8(0))]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        node("MatMulInteger", ["q", "w", "qz", "z"], "i"),
        node("Cast", ["i"], "f", to=FLOAT),
        node("Mul", ["f", "qs"], "g"),
        node("Mul", ["g", "s"]),
    ]
    return graphs.graph(nodes, [("x", FLOAT, ["n", 256])], [("y", FLOAT, ["n", 512])], held)


def written(folder, data=None):
    folder.mkdir()
    (folder / "model.onnx").write_bytes(every_way() if data is None else data)
    return folder


def pinned(tmp_path):
    """A pinned model in a folder of its own, and the place of its shared weights."""
    ref = graphs.pin(written(tmp_path / "source"))
    return ref, tmp_path / "cache" / "models" / f"{ref.sha256}.weights"


def scored(folder, form="fast"):
    clear_sessions()
    session = open_session(UNNAMED, SessionPlan(weights=form), folder, warm=False)
    shape = [8, *(d for d in session.signature.inputs[0].shape[1:])]
    feed = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return session.run({"x": feed}, ["y"])[0]


def test_the_graph_is_the_model_with_its_large_weights_elsewhere(tmp_path):
    data = every_way()
    found = shared_weights(written(tmp_path / "m", data), "model.onnx")
    found.write(found.file)
    ours = onnx.load_from_string(found.graph)
    moved = {t.name for t in ours.graph.initializer if t.data_location == TensorProto.EXTERNAL}
    assert moved == {"a", "b"}
    assert found.size_bytes == found.file.stat().st_size
    assert all(offset % 4096 == 0 for _, _, offset in found.ranges)
    onnx.load_external_data_for_model(ours, str(tmp_path))
    for tensor in ours.graph.initializer:
        if tensor.name in moved:  # as onnx leaves what it has read in
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    assert ours == onnx.load_from_string(data)


@pytest.mark.parametrize("data", [every_way(), folded(), quantised()], ids=["every way", "folded", "quantised"])
def test_fast_has_the_bits_of_the_embedded_weights_and_lean_is_as_close_as_float32(tmp_path, data):
    folder = written(tmp_path / "m", data)
    embedded, signature = scored(folder), read_signature(folder, "model.onnx")
    found = shared_weights(folder, "model.onnx")
    found.write(found.file)
    assert scored(folder).tobytes() == embedded.tobytes()
    assert read_signature(folder, "model.onnx") == signature
    lean = scored(folder, "lean")
    np.testing.assert_allclose(lean, embedded, rtol=1e-4, atol=1e-4 * np.abs(embedded).max())


def test_a_session_reads_the_shared_file_and_not_the_model_s_weights(tmp_path):
    folder = written(tmp_path / "m", folded())
    found = shared_weights(folder, "model.onnx")
    found.write(found.file)
    before = scored(folder)
    found.file.chmod(0o600)
    found.file.write_bytes(bytes(found.size_bytes))
    assert not np.array_equal(scored(folder), before)


def test_lean_is_a_session_of_its_own_whose_weights_are_not_packed(tmp_path):
    folder = written(tmp_path / "m", folded())
    lean, fast = (open_session(UNNAMED, SessionPlan(weights=form), folder) for form in ("lean", "fast"))
    assert lean is not fast
    assert lean._inner.get_session_options().get_session_config_entry("session.disable_prepacking") == "1"


def test_the_weights_are_written_once_with_the_same_bytes_and_for_reading_alone(tmp_path):
    ref, file = pinned(tmp_path)
    folder = cache.local_folder(ref)
    first = file.read_bytes(), file.stat().st_ino
    assert cache.local_folder(ref) == folder
    assert (file.read_bytes(), file.stat().st_ino) == first
    file.unlink()
    cache.local_folder(ref)
    assert file.read_bytes() == first[0]
    assert file.stat().st_mode & 0o777 == 0o400
    assert sorted(p.name for p in file.parent.iterdir()) == [ref.sha256, file.name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: bytes([data[0] ^ 128]) + data[1:],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"",
    ],
    ids=["last bit", "first bit", "cut short", "too long", "empty"],
)
def test_damaged_weights_are_written_again_from_the_model_whose_digest_is_pinned(tmp_path, damage):
    ref, file = pinned(tmp_path)
    cache.local_folder(ref)
    whole = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(damage(whole))
    cache.local_folder(ref)
    assert file.read_bytes() == whole


def test_weights_of_another_model_are_not_taken_for_these(tmp_path):
    """As when both copies on the node were replaced by those of one other model: the digest of the model decides."""
    ref, file = pinned(tmp_path)
    folder = cache.local_folder(ref)
    whole, before = file.read_bytes(), scored(folder)
    other = shared_weights(written(tmp_path / "other"), "model.onnx")
    file.unlink()
    other.write(file)
    (folder / "model.onnx").write_bytes(other.model.read_bytes())
    assert file.read_bytes() != whole
    assert scored(cache.local_folder(ref)).tobytes() == before.tobytes()
    assert file.read_bytes() == whole


@pytest.mark.parametrize("why", ["small", "external", "no large tensor"])
def test_what_needs_no_such_file_gets_none(tmp_path, monkeypatch, why):
    folder = written(tmp_path / "source", graphs.linear() if why == "no large tensor" else every_way())
    if why == "external":
        model = onnx.load(str(folder / "model.onnx"))
        onnx.save(
            model, str(folder / "model.onnx"), save_as_external_data=True, location="w.bin", size_threshold=1 << 18
        )
    if why == "small":
        monkeypatch.setattr(weights, "MIN_MODEL_BYTES", (folder / "model.onnx").stat().st_size + 1)
    ref = graphs.pin(folder)
    cache.local_folder(ref)
    assert [p.name for p in (tmp_path / "cache" / "models").iterdir()] == [ref.sha256]


CONVERTER = textwrap.dedent("""
    import pickle, resource, signal, sys, time
    from sparkscore.errors import SparkscoreError
    from sparkscore.runtime import cache, weights
    weights.MIN_MODEL_BYTES = 0
    ref, go, limit, action = pickle.loads(bytes.fromhex(sys.argv[1]))
    if limit:  # of a file: the kernel ends the process in the middle of the write, or refuses it
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if action == "kill" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    written, write = [], weights.SharedWeights.write
    def slow(self, target):
        written.append(target)
        write(self, target)
        time.sleep(0.2)
    weights.SharedWeights.write = slow
    time.sleep(max(0, go - time.time()))
    try:
        cache.local_folder(ref)
    except SparkscoreError as refusal:
        print(refusal.code)
    else:
        print(len(written))
""")


def converter(ref, go=0.0, limit=0, action=""):
    request = pickle.dumps((ref, go, limit, action)).hex()
    return subprocess.Popen([sys.executable, "-c", CONVERTER, request], stdout=subprocess.PIPE)


@pytest.mark.parametrize(("action", "code", "said"), [("kill", -signal.SIGXFSZ, ""), ("refuse", 0, "SPS-ENV-ACCESS")])
def test_a_conversion_that_is_killed_or_refused_leaves_nothing_that_counts(tmp_path, monkeypatch, action, code, said):
    ref, file = pinned(tmp_path)
    with monkeypatch.context() as small:
        small.setattr(weights, "MIN_MODEL_BYTES", 1 << 30)
        cache.local_folder(ref)
    process = converter(ref, limit=200_000, action=action)
    assert process.communicate(timeout=60)[0].decode().strip() == said
    assert process.returncode == code
    assert not file.exists()
    cache.local_folder(ref)
    assert shared_weights(file.with_suffix(""), "model.onnx").is_whole()


def test_processes_that_convert_at_once_write_one_file_which_all_map(tmp_path):
    ref, _ = pinned(tmp_path)
    started = [converter(ref, time.time() + 1.5) for _ in range(2)]
    assert {process.communicate(timeout=60)[0] for process in started} == {b"0\n", b"1\n"}


@pytest.mark.slow
def test_two_lean_workers_hold_one_copy_of_the_weights(tmp_path, monkeypatch):
    """The promise of performance.md §15: 1.3 x model + N x 80 MB."""
    model = memory.write_model(tmp_path / "m" / "model.onnx", 24)
    ref = graphs.pin(model.parent)
    folder = str(cache.local_folder(ref))
    model_mb = model.stat().st_size / 1e6
    _, lean_mb, _ = memory._measured(2, (folder, ref.main, "lean"))
    assert lean_mb < 1.3 * model_mb + 2 * 80
    Path(f"{folder}.weights").unlink()
    _, embedded_mb, _ = memory._measured(2, (folder, ref.main, "lean"))
    assert embedded_mb > lean_mb + model_mb
