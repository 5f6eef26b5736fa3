"""A pipeline's model: which files belong to it, where they are, and how a plan gets the same bytes back."""

from __future__ import annotations

import json
import shutil

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.run.models import encoder_files, model_from_json, model_to_json, pin_model, repin
from sparkscore.runtime import cache
from sparkscore.spec.fields import located
from sparkscore.spec.pipeline import load_pipeline
from tests.scoring import graphs

KEYS = """
version: 1
name: t
source: {format: parquet, location: in}
model: {uri: m, allow_links: true}
inputs: {x: [a, {category: c, vocabulary: v.txt}], t: {text: s, tokenizer: "../t.json"}}
outputs: {label: {output: y, then: [argmax, {labels: v.txt}]}}
sink: {format: delta, location: out}
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A pipeline file beside its model, whose graph is linked from elsewhere."""
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "p" / "m").mkdir(parents=True)
    (tmp_path / "real.onnx").write_bytes(graphs.linear())
    (tmp_path / "p" / "m" / "model.onnx").symlink_to(tmp_path / "real.onnx")
    (tmp_path / "p" / "v.txt").write_text("AA\nB6\n")
    (tmp_path / "t.json").write_text("{}")
    (tmp_path / "p" / "job.yaml").write_text(KEYS)
    return load_pipeline(tmp_path / "p" / "job.yaml")


def planned(model):
    """What the plan keeps of a model: JSON on a disk."""
    return json.loads(json.dumps(model_to_json(model.ref)))


def test_each_encoders_file_is_found_once_from_the_pipeline_files_folder(job, tmp_path):
    assert encoder_files(job) == {"v.txt": f"{tmp_path}/p/v.txt", "../t.json": f"{tmp_path}/t.json"}


@pytest.mark.parametrize("uri", ["/m/a.onnx", "s3://b/a", "models:/m@champion", "runs:/1/m", "dbfs:/m", "hdfs://n/m"])
def test_only_a_relative_path_is_looked_for_in_the_pipeline_files_folder(tmp_path, uri):
    assert located(uri, tmp_path) == uri
    assert located("m/a:b.onnx", tmp_path) == f"{tmp_path}/m/a:b.onnx"


def test_a_pinned_model_survives_the_plans_json(job):
    ref = pin_model(job).ref
    assert model_from_json(planned(pin_model(job))) == ref
    assert [f.path for f in ref.files] == ["model.onnx", "encoders/0-v.txt", "encoders/1-t.json"]


def test_a_resume_takes_the_plans_model_with_its_encoders_from_the_cache_or_from_its_places(job, tmp_path):
    model = pin_model(job)
    plan = planned(model)
    again = repin(job, plan)
    shutil.rmtree(cache.cache_root())
    assert again == model == repin(job, plan)
    assert again.encoder_paths == {"v.txt": "encoders/0-v.txt", "../t.json": "encoders/1-t.json"}


@pytest.mark.parametrize("name", ["real.onnx", "p/v.txt"])
def test_a_resume_is_the_planned_bytes_or_nothing(job, tmp_path, name):
    plan = planned(pin_model(job))
    (tmp_path / name).write_bytes(graphs.linear(width=3))
    assert model_from_json(plan) == repin(job, plan).ref  # this node still holds them
    shutil.rmtree(cache.cache_root())
    with pytest.raises(SparkscoreError, match="SPS-MODEL-DIGEST"):
        repin(job, plan)


def test_a_models_own_folder_named_encoders_confuses_no_resume(job, tmp_path):
    plan = planned(pin_model(job))
    plan["files"].insert(1, {**plan["files"][0], "path": "encoders/w.bin"})
    ref = model_from_json(plan)
    digest = cache.manifest_sha256(ref.files)
    folder = tmp_path / "p" / "m" / "encoders"
    folder.mkdir()
    (folder / "w.bin").write_bytes(graphs.linear())
    again = repin(job, {**plan, "sha256": digest})
    assert list(again.encoder_paths.values()) == ["encoders/0-v.txt", "encoders/1-t.json"]


def test_a_handed_out_model_is_resolved_again_and_compared(job, tmp_path):
    plan = planned(pin_model(job))
    plan["location"] = f"artifact:{tmp_path}/p/m"
    shutil.rmtree(cache.cache_root())
    assert repin(job, plan).ref == model_from_json(plan)
    (tmp_path / "real.onnx").write_bytes(graphs.linear(width=3))
    with pytest.raises(SparkscoreError, match="SPS-MODEL-DIGEST"):
        repin(job, plan)
