"""`sparkscore spec`: is a pipeline file right, what does it resolve to, and the schema that editors check it by."""

from __future__ import annotations

import json

import typer

from sparkscore.cli.options import AsJson, PipelineFile, Sets, sets_of
from sparkscore.cli.printing import emit

app = typer.Typer(help="Validate or show a pipeline file.", no_args_is_help=True)


@app.command("validate")
def validate(pipeline: PipelineFile, *, sets: Sets = None, as_json: AsJson = False) -> None:
    """Check a pipeline file by itself: no data, no model, no Spark."""
    from sparkscore.spec.fingerprint import fingerprint
    from sparkscore.spec.pipeline import load_pipeline

    found = load_pipeline(pipeline, sets_of(sets))
    value = {"name": found.name, "valid": True, "fingerprint": fingerprint(found)}
    emit(value, f"{pipeline}: valid; fingerprint {value['fingerprint']}", as_json)


@app.command("show")
def show(pipeline: PipelineFile, *, sets: Sets = None, as_json: AsJson = False) -> None:
    """Show a pipeline file as it is run: variables filled, short forms written out, defaults added."""
    import yaml

    from sparkscore.spec.pipeline import load_pipeline

    found = load_pipeline(pipeline, sets_of(sets)).model_dump(mode="json", by_alias=True, exclude_none=True)
    emit(found, yaml.safe_dump(found, sort_keys=False, allow_unicode=True).rstrip(), as_json)


@app.command("schema")
def schema(*, as_json: AsJson = False) -> None:
    """Print the JSON Schema of pipeline files."""
    from sparkscore.spec.json_schema import json_schema

    found = json_schema()
    emit(found, json.dumps(found, indent=2, ensure_ascii=False), as_json)
