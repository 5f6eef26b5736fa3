"""The JSON Schema takes what the pipeline takes, marks what it refuses, and its committed copy is in step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # a tool of the tests only
import pytest
import yaml

from sparkscore.spec.json_schema import json_schema
from sparkscore.spec.pipeline import load_pipeline
from tests.spec.test_pipeline import FULL, MINIMAL

COMMITTED = Path(__file__).parents[2] / "conf" / "schema" / "sparkscore.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_committed_schema_is_in_step() -> None:
    committed = json.loads(COMMITTED.read_text())
    assert committed == json_schema(), "run: sparkscore spec schema > conf/schema/sparkscore.schema.json"


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("text", [MINIMAL, FULL], ids=["minimal", "full"])
def test_what_loads_is_valid(text: str) -> None:
    load_pipeline(text)
    document = json.loads(json.dumps(yaml.safe_load(text)))
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("modle", {}),
        ("stream", {}),
        ("version", 2),
        ("source", {"frmat": "jdbc"}),
        ("model", {"uri": "/m", "device": "gpu"}),
        ("model", {"uri": "/m", "batch_size": 0}),
        ("inputs", {"x": {"colum": "a"}}),
        ("inputs", {}),
        ("outputs", {"p": {"output": "p", "then": ["softmx"]}}),
        ("on_error", {"max_fraction": 1.5}),
        ("sink", {"format": "delta", "location": "/a", "mode": "merge"}),
    ],
)
def test_what_is_refused_is_marked(path: str, value: Any) -> None:
    document = json.loads(json.dumps(yaml.safe_load(MINIMAL))) | {path: value}
    assert not VALIDATOR.is_valid(document)


def test_a_variable_may_stand_for_a_number_or_a_choice() -> None:
    document = json.loads(json.dumps(yaml.safe_load(MINIMAL)))
    document["model"] |= {"device": "${device:-cpu}", "batch_size": "${rows}"}
    document["on_error"] = {"max_fraction": "${share}"}
    VALIDATOR.validate(document)


def test_every_key_says_what_it_is() -> None:
    schema = json_schema()
    for model in (schema, *schema["$defs"].values()):
        assert model["description"]
        assert all(key["description"] for key in model.get("properties", {}).values())
