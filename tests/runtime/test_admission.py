"""Admission: hostile model files are refused by a code or end in the child, nothing of them runs, honest ones pass."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.run.models import model_to_json, repin
from sparkscore.runtime import admission, cache, onnx_file
from sparkscore.runtime.models import pin
from sparkscore.spec.pipeline import load_pipeline
from tests.runtime import hostile_models as corpus
from tests.scoring import graphs

# Modules that a child would import from a model's folder, if it looked there.
_BAIT = ("sitecustomize.py", "usercustomize.py", "numpy.py", "json.py", "onnxruntime.py", "sparkscore.py")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty model folder, full of traps, that is also the working folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in _BAIT:
        (folder / name).write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "cache"))
    return folder


def written(place, maker) -> str:
    data = maker(place)
    if data is not None:
        (place / "m.onnx").write_bytes(data)
    return str(place / "m.onnx")


def refusal(uri) -> SparkscoreError:
    with pytest.raises(SparkscoreError) as caught:
        pin(uri)
    return caught.value


def assert_contained(place, maker, code) -> None:
    uri, started = written(place, maker), time.perf_counter()
    said = refusal(uri)
    assert said.code == code
    assert "Expected" in said.message
    assert "Got" in said.message
    assert said.fix
    assert len(str(said)) < 2500
    assert time.perf_counter() - started < 30
    assert not (place.parent / "canary").exists()
    assert not list((place.parent / "cache" / "models").iterdir())  # neither the model nor a verdict on it


@pytest.mark.parametrize("kind", corpus.STATIC)
def test_a_hostile_file_is_refused_by_what_it_says(place, kind, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)  # nothing is loaded
    assert_contained(place, *corpus.STATIC[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", corpus.LOADED)
def test_a_hostile_file_is_refused_by_its_first_load_in_a_child(place, kind):
    assert_contained(place, *corpus.LOADED[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", corpus.ENDLESS)
def test_a_model_without_end_is_stopped(place, kind, monkeypatch):
    assert admission._LIMIT_S == 30
    monkeypatch.setattr(admission, "_LIMIT_S", 3)
    assert_contained(place, *corpus.ENDLESS[kind])


def test_the_corpus_is_as_large_as_promised():
    assert len(corpus.STATIC) + len(corpus.LOADED) + len(corpus.ENDLESS) >= 50
    assert len(corpus.GOOD) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", corpus.GOOD)
def test_an_honest_model_is_admitted_with_its_flags(place, kind):
    maker, flags = corpus.GOOD[kind]
    assert pin(written(place, maker)).flags == flags
    assert not (place.parent / "canary").exists()


_ENDS = {
    "a segfault": ("os.kill(os.getpid(), 11)", "signal 11 (Segmentation fault"),
    "a signal without a name": ("os.kill(os.getpid(), 40)", "signal 40"),
    "the kernel's OOM killer": ("os.kill(os.getpid(), 9)", "signal 9 (Killed"),
    "no CPU time left": (
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 9))\nwhile True: pass",
        "out of CPU time",
    ),
    "an exit that looks like success": ("os._exit(0)", "exit code 0"),
    "an exception": ("raise MemoryError('x')", "exit code 1: MemoryError: x"),
    "a hang": ("import time; time.sleep(60)", "no end"),
}


@pytest.mark.parametrize("kind", _ENDS)
def test_however_the_child_ends_it_is_one_error_and_this_process_lives(place, kind, monkeypatch):
    does, says = _ENDS[kind]
    begins = "import os, sys\nsys.stdout.write('ready\\n'); sys.stdout.flush()\n"
    monkeypatch.setattr(admission, "_PROGRAM", begins + does)
    monkeypatch.setattr(admission, "_LIMIT_S", 1 if kind == "a hang" else 30)
    said = refusal(written(place, corpus.fixed(graphs.linear)))
    assert (said.code, said.exit_code) == ("SPS-MODEL-ADMISSION", 5)
    assert says in said.message


def test_a_python_that_does_not_start_is_not_the_models_fault(place, monkeypatch):
    monkeypatch.setattr(admission, "_PROGRAM", "import a_package_that_is_not_there")
    said = refusal(written(place, corpus.fixed(graphs.linear)))
    assert (said.code, said.exit_code) == ("SPS-ENV-PACKAGE", 4)
    assert "a_package_that_is_not_there" in said.message


def test_a_model_is_admitted_once_for_its_bytes_and_anew_for_another_graph_or_version(place, monkeypatch):
    loads = []
    first_load = admission._first_load
    monkeypatch.setattr(admission, "_first_load", lambda *a: loads.append(a) or first_load(*a))
    uri = written(place, corpus.fixed(graphs.linear))
    model = pin(uri)
    assert model.flags == pin(uri).flags == ()
    assert len(loads) == 1
    note = cache.note(model.ref.sha256)
    assert 0 < note["memory_bytes"] < admission.MIN_MEMORY_BYTES
    assert note["warm_up_ok"] is True
    for term, other in {"main": "other.onnx", "onnxruntime": "1.20.0", "rules": 0}.items():
        cache.write_note(model.ref.sha256, {**note, term: other})
        pin(uri)
        assert cache.note(model.ref.sha256) == note
    assert len(loads) == 4
    (place.parent / "cache" / "models" / f"{model.ref.sha256}.json").write_text("torn")
    pin(uri)
    assert len(loads) == 5


def test_a_resumed_run_admits_the_model_on_a_driver_that_never_saw_it(place, tmp_path, monkeypatch):
    uri = written(place, corpus.fixed(graphs.linear))
    planned = model_to_json(pin(uri).ref)
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "another driver"))
    repin(_pipeline(uri), planned)
    assert cache.note(planned["sha256"])["flags"] == []


def _pipeline(uri):
    return load_pipeline(
        {
            "version": 1,
            "name": "p",
            "source": {"format": "parquet", "location": "/in"},
            "model": {"uri": uri},
            "inputs": {"x": ["a", "b"]},
            "sink": {"format": "delta", "location": "/out"},
        }
    )


def test_the_child_sees_no_credentials(place, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setattr(admission, "_PROGRAM", "import os, sys; sys.exit(','.join(sorted(os.environ)))")
    names = refusal(written(place, corpus.fixed(graphs.linear))).message
    assert "OMP_NUM_THREADS" in names
    assert "AWS" not in names
    assert "PYTHON" not in names


def test_a_file_of_endless_small_fields_is_not_read_to_its_end(place, monkeypatch):
    monkeypatch.setattr(onnx_file, "_MAX_FIELDS", 1000)
    said = refusal(written(place, lambda _: graphs.linear() + b"\x22\x00" * 1000))
    assert said.code == "SPS-MODEL-ADMISSION"
    assert "more than 1,000 fields" in said.message


def test_an_onnxruntime_before_the_hardened_one_is_flagged(caplog):
    with caplog.at_level(logging.WARNING):
        assert admission._old("1.26.1") == ("onnxruntime 1.26.1 < 1.27",)
    assert "hardened" in caplog.text
    assert admission._old("1.27.0") == admission._old("2.0") == ()
