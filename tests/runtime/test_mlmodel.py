"""An MLflow package is data: hostile ones are refused, nothing of them runs, and a false signature is found."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparkscore.errors import ModelError
from sparkscore.runtime.models import pin
from tests.scoring import graphs

ONNX = {"flavors": {"onnx": {"data": "model.onnx"}}}


def package(folder: Path, document: Any = ONNX, model: bytes | None = None) -> str:
    """Write a package; a document that is no text is written as YAML."""
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(graphs.linear() if model is None else model)
    text = document if isinstance(document, str | bytes) else yaml.safe_dump(document)
    (folder / "MLmodel").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def recorded(*inputs: Any, outputs: Any = ()) -> dict[str, Any]:
    """An MLmodel with a signature, as MLflow writes it: JSON in strings; a tensor is (name, dtype)."""
    sides = {"inputs": inputs, "outputs": outputs}
    entries = {
        side: [
            {"type": "tensor", "name": t[0], "tensor-spec": {"dtype": t[1], "shape": [-1, 2]}}
            if isinstance(t, tuple)
            else t
            for t in tensors
        ]
        for side, tensors in sides.items()
    }
    return {**ONNX, "signature": {side: json.dumps(entry) for side, entry in entries.items()}}


def test_only_the_onnx_file_of_a_package_is_taken(tmp_path):
    uri = package(tmp_path / "p", {"flavors": {**ONNX["flavors"], "python_function": {"loader_module": "evil"}}})
    (tmp_path / "p" / "evil.py").write_text("raise SystemExit")
    (tmp_path / "p" / "other.onnx").write_bytes(b"")
    model = pin(uri)
    assert [f.path for f in model.ref.files] == ["model.onnx"] == [p.name for p in model.folder.iterdir()]
    assert "evil" not in sys.modules


def test_a_file_in_a_folder_of_the_package_is_found(tmp_path):
    uri = package(tmp_path / "p", {"flavors": {"onnx": {"data": "data/m.onnx"}}})
    (tmp_path / "p" / "data").mkdir()
    (tmp_path / "p" / "model.onnx").rename(tmp_path / "p" / "data" / "m.onnx")
    assert pin(uri).ref.main == "data/m.onnx"


BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnop"))
HOSTILE = {
    "a python object": "flavors: {onnx: {data: !!python/object/apply:os.mkdir [ran]}}",
    "a python name": "!!python/name:os.system",
    "a parent folder": {"flavors": {"onnx": {"data": "../model.onnx"}}},
    "a parent folder below": {"flavors": {"onnx": {"data": "a/../../model.onnx"}}},
    "an absolute path": {"flavors": {"onnx": {"data": "/etc/passwd"}}},
    "an empty path": {"flavors": {"onnx": {"data": ""}}},
    "the folder itself": {"flavors": {"onnx": {"data": "."}}},
    "a list": {"flavors": {"onnx": {"data": ["model.onnx"]}}},
    "a name with a NUL": 'flavors: {onnx: {data: "model\\0.onnx"}}',
    "another flavour": {"flavors": {"sklearn": {"data": "model.onnx", "pickled_model": "m.pkl"}}},
    "no flavour": {"flavors": {}},
    "nothing": "",
    "a text": "hello",
    "a list of documents": "--- 1\n--- 2\n",
    "bytes": b"\xff\xfe\x00\x80",
    "a date that is none": "flavors: 2020-99-99",
    "deep nesting": "[" * 5000,
    "too long": yaml.safe_dump(ONNX) + "#" + "x" * (1 << 20),
    "an alias bomb": BOMB + "flavors: {onnx: {data: *p}}\n",
    "a path with a tag that runs code": "flavors: {onnx: {data: !!python/object/new:os.system [touch ran]}}",
    "a path with a tag": "flavors: {onnx: {data: !!python/name:os.system model.onnx}}",
    "two paths": "flavors: {onnx: {data: model.onnx, data: other.onnx}}",
    "two lists of flavours": "flavors: {onnx: {data: model.onnx}}\nflavors: {onnx: {data: other.onnx}}\n",
    "only python_function": {
        "flavors": {"python_function": {"loader_module": "evil", "code": "code", "data": "m.pkl", "env": "conda.yaml"}}
    },
    "a list instead of a mapping": [{"flavors": {"onnx": {"data": "model.onnx"}}}],
    "flavours as a list": {"flavors": [{"onnx": {"data": "model.onnx"}}]},
    "deep blocks": "\n".join(" " * i + "a:" for i in range(1000)),
    "questions without end": "flavors: {onnx: {data: model.onnx}}\n" + "? " * 100_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_package_is_refused_quickly_and_nothing_of_it_runs(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    uri, started = package(tmp_path / "p", HOSTILE[kind]), time.perf_counter()
    with pytest.raises(ModelError) as caught:
        pin(uri)
    assert caught.value.code == "SPS-MODEL-FORMAT"
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "ran").exists()
    assert time.perf_counter() - started < 5


NO_HARM = {
    "an alias bomb beside": BOMB,
    "an alias of itself": "more: &a {me: *a}\n",
    "a number that takes minutes to read": "more: 9" + ":59" * 300_000 + "\n",
    "a tag that runs code, beside": "more: !!python/object/apply:os.mkdir [ran]\n",
    "pip commands": "env: {pip: ['evil @ http://127.0.0.1:1/evil.tar.gz; touch ran']}\n",
}


@pytest.mark.parametrize("kind", NO_HARM)
def test_what_stands_beside_the_onnx_flavour_is_never_made(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    uri, started = package(tmp_path / "p", "flavors: {onnx: {data: model.onnx}}\n" + NO_HARM[kind]), time.perf_counter()
    assert pin(uri).ref.main == "model.onnx"
    assert not (tmp_path / "ran").exists()
    assert time.perf_counter() - started < 5


class _Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def test_pickles_and_code_of_a_package_are_left_alone(tmp_path):
    flavors = {
        **ONNX["flavors"],
        "python_function": {
            "loader_module": "evil",
            "code": "code",
            "data": "model.pkl",
            "python_model": "model.pkl",
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        },
    }
    uri, canary = package(tmp_path / "p", {"flavors": flavors, "model_code_path": "code/evil.py"}), tmp_path / "ran"
    pickle.loads(pickle.dumps(_Payload(canary)))
    assert canary.exists()  # the payload is live
    canary.unlink()
    (tmp_path / "p" / "model.pkl").write_bytes(pickle.dumps(_Payload(canary)))
    (tmp_path / "p" / "code").mkdir()
    for name in ("code/evil.py", "evil.py", "sitecustomize.py", "conftest.py"):
        (tmp_path / "p" / name).write_text(f"open({str(canary)!r}, 'w').close()")
    (tmp_path / "p" / "conda.yaml").write_text("dependencies: [{pip: ['evil @ http://127.0.0.1:1/x']}]")
    assert [f.path for f in pin(uri).ref.files] == ["model.onnx"]
    assert not canary.exists()


def test_an_mlmodel_that_is_a_pipe_or_a_folder_is_no_package(tmp_path):
    uri = package(tmp_path / "p")
    (tmp_path / "p" / "MLmodel").unlink()
    os.mkfifo(tmp_path / "p" / "MLmodel")
    assert pin(uri).ref.main == "model.onnx"  # a folder with one ONNX file
    (tmp_path / "p" / "MLmodel").unlink()
    (tmp_path / "p" / "MLmodel").mkdir()
    assert pin(uri).ref.main == "model.onnx"


def test_a_package_whose_onnx_file_is_gone_is_missing(tmp_path):
    uri = package(tmp_path / "p")
    (tmp_path / "p" / "model.onnx").unlink()
    with pytest.raises(ModelError, match="SPS-MODEL-MISSING"):
        pin(uri)


def test_an_onnx_file_linked_out_of_its_package_is_refused(tmp_path):
    uri = package(tmp_path / "p")
    (tmp_path / "p" / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (tmp_path / "p" / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ModelError, match="SPS-MODEL-LINK"):
        pin(uri)


TRUE_SIGNATURES = {
    "none": ONNX,
    "the graph's": recorded(("x", "float32"), outputs=[("y", "float32")]),
    "float64, which MLflow casts": recorded(("x", "float64")),
    "a tensor without a name": recorded({"type": "tensor", "tensor-spec": {"dtype": "int8", "shape": [-1]}}),
    "columns": recorded({"type": "double", "name": "age"}, {"type": "string", "name": "city"}),
    "unreadable": {**ONNX, "signature": {"inputs": "[{", "outputs": 7}},
}


@pytest.mark.parametrize("kind", TRUE_SIGNATURES)
def test_a_signature_that_the_graph_does_not_contradict_passes(tmp_path, kind):
    assert pin(package(tmp_path / "p", TRUE_SIGNATURES[kind])).ref.main == "model.onnx"


FALSE_SIGNATURES = {
    "an input that the graph lacks": recorded(("x", "float32"), ("amount", "float32")),
    "an input of another dtype": recorded(("x", "int64")),
    "an output that the graph lacks": recorded(("x", "float32"), outputs=[("label", "float32")]),
    "an output of another dtype": recorded(outputs=[("y", "float64")]),
}


@pytest.mark.parametrize("kind", FALSE_SIGNATURES)
def test_a_signature_of_another_model_is_refused_with_both_sides_named(tmp_path, kind):
    with pytest.raises(ModelError, match=r"SPS-MODEL-SIGNATURE.*'[xy]' of float32") as caught:
        pin(package(tmp_path / "p", FALSE_SIGNATURES[kind]))
    assert caught.value.exit_code == 5


def test_a_recorded_string_tensor_is_the_graphs_string_tensor(tmp_path):
    uri = package(tmp_path / "p", recorded(("s", "object")), graphs.text_length())
    assert pin(uri).ref.main == "model.onnx"
