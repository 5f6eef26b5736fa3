"""The pipeline file as a JSON Schema, for editors: generated from the models, with the short forms added."""

from __future__ import annotations

from typing import Any

from sparkscore.spec.pipeline import Pipeline
from sparkscore.spec.results import STEPS

# What an editor shows beside each key. The models' docstrings describe the mappings themselves.
_POLICY = {
    "null": "a null in a fed column: error (a row error), nan (float tensors), or fill",
    "fill": "the value for null: fill",
    "nan": "NaN in a fed column: allow (trees read it as missing) or error",
    "inf": "an infinity in a fed column: error or allow",
    "range": "[low, high]; a value outside is a row error; null leaves a side open",
    "max_bytes": "a longer cell is a row error; default 16 MiB",
}
_KEYS: dict[str, dict[str, str]] = {
    "Pipeline": {
        "version": "version of the file's grammar",
        "name": "name of the pipeline; run ids begin with it",
        "source": "where the rows come from",
        "prepare": "SQL steps between the source and the model, in order",
        "model": "the ONNX model",
        "inputs": 'graph input -> columns; "*" feeds the inputs of a text model',
        "outputs": "result column -> graph output; without it every tensor output",
        "missing": "what happens to null, NaN and infinity",
        "keys": "columns that address a row; they stand beside its scores",
        "keep": "columns kept beside the scores: keys, all, or a list",
        "on_error": "how many bad rows a run bears",
        "sink": "the table of the scores",
        "quarantine": "where bad rows are collected",
        "ledger": "where runs are recorded; default <sink location>_ledger",
        "limits": "what a run may take over all its attempts; it stops before the unit that would pass it",
        "stream": "not in this version",
        "audit": "not in this version",
        "scan": "who reads the source: the workers (fused), Spark (map_in_arrow), or auto: the workers where it pays",
    },
    "Source": {
        "format": "parquet, delta, orc, avro, csv, json, text, binaryFile, jdbc, or another that Spark finds",
        "location": "a path or URI, or a list of them",
        "table": "a table or view of the catalog, in place of format and location",
        "schema": 'Spark DDL, such as "id bigint, amount double"; needed for csv and json',
        "options": "Spark's reader options; those that hide damage are refused",
        "where": "Spark SQL predicate that says what the input is; pushed down",
        "version": "version of a Delta table; without it the newest is pinned",
        "timestamp": "time of a Delta table, instead of a version",
        "credentials": "options whose values are secrets -> env:NAME, where the driver finds them",
    },
    "Step": {
        "with": "add or replace columns: {name: expression}",
        "where": "keep the rows for which it is true; the others are counted",
        "select": "keep these columns",
        "rename": "{old: new}",
        "drop": "leave these columns out",
    },
    "Model": {
        "uri": "path, s3://, hdfs://, dbfs:/, models:/name@alias or runs:/",
        "device": "cpu, cuda and tensorrt fail when they are not there; auto may fall back, and says so",
        "batch_size": "rows of one model call, or auto",
        "precision": "format of a GPU's numbers; tf32 (cuda, tensorrt) and fp16 (tensorrt) need golden rows",
        "weights": "how workers hold the weights: packed (fast), shared (lean), or auto: lean where memory is scarce",
        "golden": "file of rows with expected outputs and tolerance",
        "verify": "digest: bytes are verified before each load",
        "allow_links": "let a symbolic link leave the model's folder",
        "providers": "options per ONNX Runtime provider",
    },
    "ColumnsEntry": {
        "column": "one column: scalar, list, nested list or bytes",
        "columns": "scalar columns packed side by side",
        "shape": "row shape of a flat list or of bytes",
        "shape_column": "column that holds each row's shape",
    },
    "CategoryEntry": {
        "category": "the column",
        "vocabulary": "the categories in order, or a file with one a line",
        "unknown": "error, or the index of unknown categories",
        "one_hot": "spread the category over one column for each entry",
    },
    "TextEntry": {
        "text": "the column",
        "tokenizer": "a Hugging Face tokenizer.json",
        "max_tokens": "longer texts are cut and counted",
        "field": "which of the tokenizer's arrays; default by the graph input's name",
        "overlong": "cut, or error to refuse longer texts",
    },
    "ImageEntry": {
        "image": "the column with the encoded image",
        "size": "[height, width]",
        "layout": "order of the axes: nchw or nhwc",
        "dtype": "type of the tensor",
        "scale": "factor on the pixels, before mean and std",
        "mean": "three numbers, red, green, blue",
        "std": "three numbers, red, green, blue",
        "decode": "`scaled` reads a JPEG at a half, a quarter or an eighth of its size: faster, with other pixels.",
    },
    "Missing": {},
    "OutputEntry": {
        "output": "name or position of the graph output",
        "index": "numpy index whose first axis is ':', such as [:, 1]",
        "then": "steps in order, such as softmax or {top_k: 5}",
        "encode": "nested arrays, flat array, or little-endian bytes",
        "allow_nan": "let NaN and infinity through",
        "range": "[low, high]; a value outside is a row error",
    },
    "OnError": {
        "policy": "quarantine bad rows, or fail at the first",
        "max_fraction": "largest fraction of bad rows of the run, 0 to 1",
        "max_rows": "largest number of bad rows of the run",
        "min_sample_rows": "rows before the fraction is judged",
        "max_consecutive_bad_batches": "batches in a row without a good row, per task",
        "min_ok_rows": "fewest good rows of a successful run",
        "batch_timeout_s": "seconds for one model call",
        "load_timeout_s": "seconds to load the session",
        "no_progress_s": "seconds in which a task must finish a batch; null for any time",
        "max_guard_deaths": "guarded processes that may die in one task",
        "guard": "model calls in a process of their own: auto (Spark's repeated tasks), always, or off",
        "allow_empty": "a source without rows is a success",
    },
    "Sink": {
        "format": "delta, parquet, orc, json, csv, avro, or another format that Spark can append to, such as jdbc",
        "location": "path or URI",
        "table": "name in the catalog, of a Delta table; then `ledger` is needed",
        "mode": "append, or overwrite in one commit (delta with publish: atomic)",
        "replace_where": "with mode: overwrite, the SQL predicate of the rows that the run replaces",
        "partition_by": "columns that partition the table",
        "options": "Spark's writer options",
        "credentials": "options whose values are secrets -> env:NAME, where the driver finds them",
        "provenance": "source pointers on error rows only, or full: on all",
        "publish": "progressive: units are visible as they commit; atomic: the run as a whole",
    },
    "Quarantine": {
        "location": "default: inside the ledger",
        "payload": "what is kept of the fed columns and keys: none, hash, encrypted or plain",
        "key": "the name of the key that encrypts: env:NAME or file:/path",
        "deny": "columns that no payload holds",
        "keep_days": "days until a bad row expires",
    },
    "Limits": {
        "hours": "from claim to end, added up over all attempts",
        "usd": "counted with prices",
        "rows": "rows of committed units",
        "prices": "what is paid, in USD; none is shipped",
    },
    "Prices": {
        "core_hour": "of each core of the session, an hour",
        "hour": "of the run, an hour, whatever its cores",
        "request": "of a request to the object store",
    },
}

_VARIABLE = {"$ref": "#/$defs/Variable"}
_TEXT = {"type": "string", "minLength": 1}


def json_schema() -> dict[str, Any]:
    """Give the JSON Schema (draft 2020-12) of the pipeline file.

    Returns
    -------
    dict
        Keys that a later version will know take only null, so that an editor marks them.
    """
    schema = Pipeline.model_json_schema(by_alias=True)
    models = schema.pop("$defs")
    models["Pipeline"] = schema
    for name, model in models.items():
        _describe(model, _KEYS[name] | ({} if name in _NO_POLICY else _POLICY))
    _short_forms(models)
    top = _tidy(models.pop("Pipeline"))
    variable = {"type": "string", "pattern": r"\$\{", "description": "filled by --set or the environment"}
    definitions = {name: _tidy(models[name]) for name in sorted(models)} | {"Variable": variable}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sparkscore pipeline"}
    return {**head, **top, "$defs": definitions}


_NO_POLICY = ("Pipeline", "Source", "Step", "Model", "OutputEntry", "OnError", "Sink", "Quarantine", "Limits", "Prices")


def _describe(model: dict[str, Any], words: dict[str, str]) -> None:
    for key, property_ in model["properties"].items():
        property_["description"] = words[key]


def _short_forms(models: dict[str, Any]) -> None:
    """Add what the models' validators read as well, which pydantic does not know."""
    kinds = [{"$ref": f"#/$defs/{name}"} for name in models if name.endswith("Entry") and name != "OutputEntry"]
    entries = {"type": "array", "items": {"anyOf": [_TEXT, *kinds]}, "minItems": 1}
    top = models["Pipeline"]["properties"]
    top["inputs"]["additionalProperties"] = {"anyOf": [_TEXT, *kinds, entries]}
    top["outputs"]["anyOf"][0]["additionalProperties"] = {"anyOf": [_TEXT, {"$ref": "#/$defs/OutputEntry"}]}
    models["OutputEntry"]["properties"]["then"]["items"] = _step()
    models["Source"]["properties"]["location"]["anyOf"].insert(0, _TEXT)
    models["CategoryEntry"]["properties"]["vocabulary"]["anyOf"][0]["items"] = {"type": ["string", "integer"]}
    models["Model"]["properties"]["batch_size"]["anyOf"].insert(0, {"const": "auto"})


def _step() -> dict[str, Any]:
    arguments = {name: {"description": wants[0]} for name, wants in STEPS.items() if wants}
    one = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False}
    return {"anyOf": [{"enum": [name for name, wants in STEPS.items() if not wants]}, one | {"properties": arguments}]}


_EMPTY: tuple[Any, ...] = (None, "", [], {})


def _tidy(node: Any) -> Any:
    """Drop what an editor has no use for, and let a ``${variable}`` stand for a number, a flag or a choice."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: _tidy(value) for key, value in node.items() if _is_useful(key, value)}
    if "const" in tidy:
        tidy.pop("type", None)  # some versions of pydantic write it, some do not
    if "allOf" in tidy:
        tidy |= tidy.pop("allOf")[0]  # so do older versions write a reference that has a description
    if tidy.get("type") in ("integer", "number", "boolean") or "enum" in tidy:
        notes = {key: tidy.pop(key) for key in ("description", "default") if key in tidy}
        return {"anyOf": [tidy, _VARIABLE], **notes}
    if "anyOf" in tidy:
        flat = [
            inner for choice in tidy["anyOf"] for inner in (choice["anyOf"] if set(choice) == {"anyOf"} else [choice])
        ]
        tidy["anyOf"] = [choice for i, choice in enumerate(flat) if choice not in flat[:i]]
    return tidy


def _is_useful(key: str, value: Any) -> bool:
    if key == "default":
        return value not in _EMPTY and not isinstance(value, dict)
    return key != "propertyNames" and not (key == "title" and isinstance(value, str))
