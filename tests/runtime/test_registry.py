"""A registry's names become a version and bytes, once; MLflow is real, with its SQL registry on SQLite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest

import sparkscore as ss
from sparkscore.errors import SparkscoreError
from sparkscore.run.models import model_from_json, model_to_json, pin_model, repin
from sparkscore.runtime import cache
from sparkscore.runtime.models import pin
from sparkscore.spec.pipeline import load_pipeline
from tests.scoring import graphs

pytestmark = [pytest.mark.mlflow, pytest.mark.slow]


@pytest.fixture(scope="session")
def logged(tmp_path_factory):
    """A registry that holds the model `fraud` in two versions; gives the run ids. Making it takes seconds: once."""
    import mlflow
    import mlflow.onnx
    from mlflow.models import infer_signature

    root = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
    experiment = mlflow.create_experiment("tests", artifact_location=str(root / "artifacts"))
    runs = []
    for width in (2, 3):
        example = infer_signature({"x": np.zeros((1, width), np.float32)}, {"y": np.zeros((1, 1), np.float32)})
        with mlflow.start_run(experiment_id=experiment) as run:
            model = onnx.load_from_string(graphs.linear(width=width))
            mlflow.onnx.log_model(model, name="model", registered_model_name="fraud", signature=example)
        runs.append(run.info.run_id)
    yield runs
    mlflow.set_tracking_uri("")


@pytest.fixture
def client(logged, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "cache"))
    client = MlflowClient()
    client.set_registered_model_alias("fraud", "champion", "1")
    return client


def width(model):
    """The width of the model's input, by which its two versions differ."""
    shape = onnx.load(model.folder / model.ref.main).graph.input[0].type.tensor_type.shape
    return shape.dim[1].dim_value


def pipeline(uri, folder: Path):
    (folder / "v.txt").write_text("AA\nB6\n")
    return load_pipeline(
        {
            "version": 1,
            "name": "t",
            "source": {"format": "parquet", "location": str(folder / "in")},
            "model": {"uri": uri},
            "inputs": {"x": ["a", {"category": "c", "vocabulary": str(folder / "v.txt")}]},
            "sink": {"format": "delta", "location": str(folder / "out")},
        }
    )


def planned(model):
    """What the plan keeps of a model: JSON on a disk."""
    return json.loads(json.dumps(model_to_json(model.ref)))


def code_of(call, *args):
    with pytest.raises(SparkscoreError) as caught:
        call(*args)
    return caught.value.code


def test_an_alias_is_resolved_to_its_version_and_bytes(client):
    model = pin("models:/fraud@champion")
    assert (model.ref.uri, model.ref.version, width(model)) == ("models:/fraud@champion", "1", 2)
    assert model.ref.location == "artifact:models:/fraud/1"
    assert [f.path for f in model.ref.files] == ["model.onnx"]


def test_a_version_and_a_run_give_the_bytes_that_were_logged(client, logged):
    by_version, by_run = pin("models:/fraud/2"), pin(f"runs:/{logged[1]}/model")
    assert by_version.ref.version == "2"
    assert by_run.ref.version == by_run.ref.sha256[:12]
    assert by_run.ref.sha256 == by_version.ref.sha256
    assert width(by_run) == width(by_version) == 3


def test_an_alias_that_moves_after_the_plan_changes_nothing_for_the_run(client, tmp_path):
    job = pipeline("models:/fraud@champion", tmp_path)
    plan = planned(pin_model(job))
    client.set_registered_model_alias("fraud", "champion", "2")
    again = repin(job, plan)
    assert (again.ref, width(again)) == (model_from_json(plan), 2)
    assert width(pin_model(job)) == 3


def test_a_loaded_model_stays_the_version_that_it_was_with_encoders_too(client, tmp_path):
    loaded = ss.load("models:/fraud@champion")
    client.set_registered_model_alias("fraud", "champion", "2")
    table = pa.table({"a": pa.array([2.0], pa.float32()), "c": ["B6"]})
    inputs = {"x": ["a", {"category": "c", "vocabulary": ["AA", "B6"]}]}
    (tmp_path / "v.txt").write_text("AA\nB6\n")
    from_file = {"x": ["a", {"category": "c", "vocabulary": str(tmp_path / "v.txt")}]}
    assert (loaded.uri, loaded.version) == ("models:/fraud@champion", "1")
    assert ss.score_local(table, loaded, inputs) == ss.score_local(table, loaded, from_file)
    assert (
        code_of(ss.score_local, table, "models:/fraud@champion", from_file) == "SPS-SPEC-INPUT"
    )  # version 2 wants three


def test_a_resume_on_another_machine_takes_the_model_from_the_registry_with_its_encoders(client, tmp_path):
    job = pipeline("models:/fraud@champion", tmp_path)
    plan = planned(pin_model(job))
    shutil.rmtree(cache.cache_root())
    again = repin(job, plan)
    assert again.ref == model_from_json(plan)
    (path,) = again.encoder_paths.values()
    assert (again.folder / path).read_text() == "AA\nB6\n"


def test_a_resume_whose_bytes_changed_is_refused(client, tmp_path):
    job = pipeline("models:/fraud@champion", tmp_path)
    plan = planned(pin_model(job))
    (tmp_path / "v.txt").write_text("AA\n")
    assert code_of(repin, job, plan) == "SPS-MODEL-DIGEST"


def test_workers_take_the_handed_out_files_and_verify_them(client, tmp_path):
    model = pin("models:/fraud@champion")
    shutil.move(model.folder, tmp_path / "handed out")

    def handed_out(file):
        return f"{tmp_path}/handed out/{file.path}"

    assert cache.local_folder(model.ref, handed_out) == model.folder
    shutil.rmtree(model.folder)
    (tmp_path / "handed out" / "model.onnx").write_bytes(graphs.linear(width=3))
    assert code_of(cache.local_folder, model.ref, handed_out) == "SPS-MODEL-DIGEST"


@pytest.mark.parametrize(
    "uri",
    [
        "models:/none@champion",
        "models:/fraud@none",
        "models:/fraud/99",
        "runs:/0123456789abcdef0123456789abcdef/model",
        "models:/fraud",
        "models:/fraud/Production",
        "models:/fraud/latest",
        "models:fraud/1",
        "runs:/0123456789abcdef0123456789abcdef",
    ],
)
def test_a_name_that_the_registry_does_not_have_is_a_missing_model_named_as_written(client, uri):
    with pytest.raises(SparkscoreError) as caught:
        pin(uri)
    assert caught.value.code == "SPS-MODEL-MISSING"
    assert uri in str(caught.value)


def test_a_path_that_a_run_does_not_have_is_a_missing_model(client, logged):
    assert code_of(pin, f"runs:/{logged[0]}/none") == "SPS-MODEL-MISSING"


def test_a_false_signature_in_the_registry_is_refused(client, logged, tmp_path):
    import mlflow
    from mlflow.models import infer_signature

    wrong = infer_signature({"amount": np.zeros((1, 2), np.float32)})
    with mlflow.start_run(run_id=logged[0]):
        mlflow.onnx.log_model(onnx.load_from_string(graphs.linear()), name="wrong", signature=wrong)
    assert code_of(pin, f"runs:/{logged[0]}/wrong") == "SPS-MODEL-SIGNATURE"


def test_a_registry_that_does_not_answer_is_named_without_its_password(monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://ada:s3cret@127.0.0.1:1")
    try:
        with pytest.raises(SparkscoreError) as caught:
            pin("models:/fraud/1")
    finally:
        mlflow.set_tracking_uri(before)
    assert caught.value.code == "SPS-CLUSTER-STORAGE"
    assert "127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_without_mlflow_the_extra_is_named(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SparkscoreError, match=r'SPS-ENV-PACKAGE.*pip install "sparkscore\[mlflow\]"'):
        pin("models:/fraud/1")


def test_a_registry_without_its_sql_packages_names_them(tmp_path):
    code = "import sys; sys.modules['sqlalchemy'] = None; from sparkscore.runtime.models import pin; pin('models:/m/1')"
    env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db", "SPARKSCORE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "[SPS-ENV-PACKAGE]" in done.stderr
    assert "Fix: pip install sqlalchemy" in done.stderr
