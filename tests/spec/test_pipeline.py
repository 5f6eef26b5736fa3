"""The pipeline file, key by key: what is read, how short forms are written out, one clear error each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest

from sparkscore.errors import SpecError
from sparkscore.spec.pipeline import (
    CategoryEntry,
    ColumnsEntry,
    ImageEntry,
    Pipeline,
    TextEntry,
    load_pipeline,
)

MINIMAL = """
version: 1
name: fraud
source: {format: delta, location: /lake/tx}
model: {uri: /models/fraud}
inputs: {x: [a, b]}
sink: {format: delta, location: /lake/scores}
"""

FULL = r"""
version: 1
name: fraud-2.x
source:
  format: csv
  location: [/a, /b]
  schema: "id bigint, amount double"
  options: {header: true, sep: ";", maxColumns: 100}
  where: "day = '2013-01-01'"
prepare:
  - with: {amount_log: "log1p(amount)"}
  - where: "amount > 0"
  - select: [id, amount_log]
  - rename: {id: tx_id}
  - drop: [amount]
model:
  uri: "models:/fraud@champion"
  device: auto
  batch_size: 64
  precision: as_is
  weights: fast
  golden: golden.jsonl
  verify: digest
  allow_links: true
  providers: {CUDAExecutionProvider: {gpu_mem_limit: 1000, do_copy: false}}
inputs:
  x: [age, v1]
  v: embedding
  img: {column: pixels, shape: [3, 224, 224]}
  ragged: {column: pixels, shape_column: dims, max_bytes: 1000}
  cat: {category: carrier, vocabulary: [AA, B6, 9], unknown: error}
  file: {category: carrier, vocabulary: carriers.txt, unknown: 0, one_hot: true}
  mixed: [age, {category: carrier, vocabulary: [AA]}, {column: fare, "null": fill, fill: 0, range: [0, null]}]
  input_ids: {text: review, tokenizer: tokenizer.json, max_tokens: 256, overlong: error}
  attention_mask: {text: review, tokenizer: tokenizer.json, max_tokens: 256, field: attention_mask}
  "*": {text: review, tokenizer: tokenizer.json}
  pixels: {image: jpeg, size: [224, 224], layout: nchw, dtype: float32, scale: 0.003921569,
           mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
outputs:
  p: "probabilities[:, 1]"
  label: label
  emb: {output: last_hidden_state, then: [mean_pool, l2_normalize], encode: binary}
  cls: {output: "gpu_0/softmax_1", then: [softmax, {top_k: 5}, {labels: labels.txt}], allow_nan: true, range: [0, 1]}
  first: {output: 0, index: "[:, 0, 1:3]", then: [{clip: [0, 1]}, {affine: [1, 0.5]}, {threshold: 0.5}]}
missing: {"null": nan, nan: error, inf: allow}
keys: [tx_id]
keep: [tx_id, amount_log]
on_error: {policy: fail, max_fraction: 0.05, max_rows: 10, min_sample_rows: 5, max_consecutive_bad_batches: 4,
           min_ok_rows: 0, batch_timeout_s: 1.5, load_timeout_s: 2,
           guard: "off", max_guard_deaths: 7, allow_empty: true}
sink: {format: delta, location: /out/scores, mode: append, partition_by: [day], options: {mergeSchema: false},
       provenance: full, publish: progressive}
quarantine: {location: /out/bad, payload: plain}
ledger: /out/ledger
scan: map_in_arrow
"""


def load(**changes: Any) -> Pipeline:
    document = {
        "version": 1,
        "name": "fraud",
        "source": {"format": "parquet", "location": "/in"},
        "model": {"uri": "/m"},
        "inputs": {"x": ["a", "b"]},
        "sink": {"format": "delta", "location": "/out/scores"},
    }
    return load_pipeline({k: v for k, v in (document | changes).items() if v is not ...})


def refusal(**changes: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load(**changes)
    assert "pydantic" not in str(caught.value)
    return caught.value


def source(**keys: Any) -> dict[str, Any]:
    return {"format": "parquet", "location": "/in"} | keys


# -- what is read ----------------------------------------------------------------------------------------


def test_a_minimal_file_takes_every_default() -> None:
    pipeline = load_pipeline(MINIMAL)
    assert pipeline.source.location == ("/lake/tx",)
    assert pipeline.model.device == "cpu"
    assert pipeline.model.batch_size is None
    assert pipeline.outputs is None
    assert pipeline.keep == "keys"
    assert (pipeline.missing.null, pipeline.missing.nan, pipeline.missing.inf) == ("error", "allow", "error")
    assert (pipeline.on_error.max_fraction, pipeline.on_error.min_ok_rows) == (0.01, 1)
    assert (pipeline.on_error.guard, pipeline.on_error.max_guard_deaths) == ("auto", 64)
    assert (pipeline.quarantine.location, pipeline.quarantine.payload) == (None, "hash")
    assert pipeline.scan == "auto"


def test_every_key_of_a_full_file_is_read() -> None:
    pipeline = load_pipeline(FULL)
    assert pipeline.source.location == ("/a", "/b")
    assert pipeline.source.schema_ == "id bigint, amount double"
    assert pipeline.source.options == {"header": "true", "sep": ";", "maxColumns": "100"}
    assert [step.kind for step in pipeline.prepare] == ["with", "where", "select", "rename", "drop"]
    assert pipeline.prepare[0].with_ == {"amount_log": "log1p(amount)"}
    assert pipeline.model.batch_size == 64
    assert pipeline.model.providers == {"CUDAExecutionProvider": {"gpu_mem_limit": "1000", "do_copy": "false"}}
    assert pipeline.missing.null == "nan"
    assert pipeline.keys == ("tx_id",)
    assert pipeline.keep == ("tx_id", "amount_log")
    assert (pipeline.on_error.guard, pipeline.on_error.max_guard_deaths) == ("off", 7)
    assert pipeline.on_error.load_timeout_s == 2.0
    assert pipeline.sink.partition_by == ("day",)
    assert pipeline.ledger == "/out/ledger"


def test_each_form_of_an_input_is_written_out() -> None:
    inputs = load_pipeline(FULL).inputs
    assert inputs["x"] == (ColumnsEntry(columns=("age", "v1")),)
    assert inputs["v"] == (ColumnsEntry(column="embedding"),)
    assert inputs["img"][0] == ColumnsEntry(column="pixels", shape=(3, 224, 224))
    assert isinstance(inputs["cat"][0], CategoryEntry)
    assert inputs["cat"][0].vocabulary == ("AA", "B6", "9")
    assert isinstance(inputs["file"][0], CategoryEntry)
    assert (inputs["file"][0].vocabulary, inputs["file"][0].unknown) == ("carriers.txt", 0)
    assert inputs["*"] == (TextEntry(text="review", tokenizer="tokenizer.json"),)
    assert isinstance(inputs["pixels"][0], ImageEntry)
    assert inputs["pixels"][0].std == (0.229, 0.224, 0.225)


def test_one_bare_name_is_single_and_a_list_of_one_is_not() -> None:
    inputs = load(inputs={"a": "c", "b": ["c"], "d": {"column": "c"}, "e": {"columns": ["c"]}}).inputs
    entries = {name: parts[0] for name, parts in inputs.items()}
    found = {name: (e.columns, e.single) for name, e in entries.items() if isinstance(e, ColumnsEntry)}
    assert found == {"a": (("c",), True), "b": (("c",), False), "d": (("c",), True), "e": (("c",), False)}


def test_mixed_packing_keeps_the_order_and_each_part_its_policy() -> None:
    parts = load_pipeline(FULL).inputs["mixed"]
    assert [type(part) for part in parts] == [ColumnsEntry, CategoryEntry, ColumnsEntry]
    assert (parts[2].null, parts[2].fill, parts[2].range) == ("fill", 0, (0.0, None))
    assert parts[0].null is None


def test_outputs_are_written_out() -> None:
    outputs = load_pipeline(FULL).outputs
    assert outputs is not None
    assert (outputs["p"].output, outputs["p"].index) == ("probabilities", "[:, 1]")
    assert (outputs["label"].output, outputs["label"].index) == ("label", None)
    assert outputs["cls"].then == (("softmax", None), ("top_k", 5), ("labels", "labels.txt"))
    assert outputs["first"].output == 0
    assert outputs["first"].then == (("clip", (0, 1)), ("affine", (1, 0.5)), ("threshold", 0.5))


def test_names_that_yaml_1_1_reads_as_flags_stay_names() -> None:
    pipeline = load_pipeline(MINIMAL.replace("[a, b]", "[y, no, on]") + "outputs: {n: y, off: on}\nkeys: [no]\n")
    assert pipeline.inputs["x"] == (ColumnsEntry(columns=("y", "no", "on")),)
    assert pipeline.outputs is not None
    assert [(k, v.output) for k, v in pipeline.outputs.items()] == [("n", "y"), ("off", "on")]


def test_null_as_a_key_is_the_policy_for_nulls() -> None:
    pipeline = load_pipeline(
        MINIMAL.replace("[a, b]", "{columns: [a], null: fill, fill: 0}") + "missing: {null: nan}\n"
    )
    assert (pipeline.inputs["x"][0].null, pipeline.inputs["x"][0].fill) == ("fill", 0)
    assert pipeline.missing.null == "nan"


@pytest.mark.parametrize("fill", [0, 0.5, True, "none"])
def test_a_fill_keeps_its_type(fill: object) -> None:
    found = load(inputs={"x": {"column": "a", "null": "fill", "fill": fill}}).inputs["x"][0].fill
    assert found == fill
    assert type(found) is type(fill)


def test_a_fill_of_the_pipeline_serves_every_entry() -> None:
    assert load(missing={"null": "fill", "fill": 0}).missing.fill == 0


@pytest.mark.parametrize(("sink", "ledger"), [("/out", "/out_ledger"), ("s3a://b/out/", "s3a://b/out_ledger")])
def test_the_ledger_stands_beside_the_sink_by_default(sink: str, ledger: str) -> None:
    assert load(sink={"format": "delta", "location": sink}).ledger == ledger


def test_numbers_and_flags_may_come_from_variables() -> None:
    text = MINIMAL + "on_error: {max_fraction: '${share}', max_rows: '${rows}', allow_empty: '${empty}'}\n"
    on_error = load_pipeline(text, {"share": "0.5", "rows": "7", "empty": "true"}).on_error
    assert (on_error.max_fraction, on_error.max_rows, on_error.allow_empty) == (0.5, 7, True)


def test_the_folder_is_the_files_own(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(MINIMAL)
    assert load_pipeline(file).folder == load_pipeline(str(file)).folder == tmp_path.resolve()
    assert load_pipeline(MINIMAL).folder == Path.cwd()


def test_a_pipeline_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        load().name = "other"


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["version", "name", "source", "model", "inputs", "sink"])
def test_a_required_key_that_is_missing_is_named(key: str) -> None:
    failure = refusal(**{key: ...})
    assert failure.code == "SPS-SPEC-KEY"
    assert f"Key '{key}' is missing" in failure.message


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"source": {"format": "parquet"}}, "source"),
        ({"source": {"format": "csv", "location": "/a"}}, "source"),
        ({"source": {"format": "json", "location": "/a", "options": {"inferSchema": "false"}}}, "source"),
        ({"model": {}}, "model.uri"),
        ({"sink": {"format": "delta"}}, "sink"),
        ({"sink": {"format": "delta", "table": "lake.scores"}}, "ledger"),
        ({"inputs": {"x": {"category": "a"}}}, "inputs.x.vocabulary"),
        ({"inputs": {"x": ["b", {"text": "a"}]}}, "inputs.x[1].tokenizer"),
        ({"inputs": {"x": {"image": "a"}}}, "inputs.x.size"),
        ({"outputs": {"p": {"index": "[:, 1]"}}}, "outputs.p.output"),
    ],
    ids=str,
)
def test_a_missing_key_inside_says_where(changes: dict[str, Any], at: str) -> None:
    failure = refusal(**changes)
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-KEY", at)


@pytest.mark.parametrize("options", [{"inferSchema": True}, {"INFERSCHEMA": "true"}])
def test_csv_may_infer_its_schema_when_told(options: dict[str, Any]) -> None:
    assert load(source=source(format="csv", options=options)).source.schema_ is None


@pytest.mark.parametrize(
    ("changes", "at", "meant"),
    [
        ({"modle": {}}, "", "model"),
        ({"Model": {}}, "", "model"),
        ({"source": source(locaton="/a")}, "source", "location"),
        ({"source": source(schema_="a int")}, "source", "schema"),
        ({"prepare": [{"where": "a > 0"}, {"whree": "a > 0"}]}, "prepare[1]", "where"),
        ({"model": {"uri": "/m", "batchsize": 1}}, "model", "batch_size"),
        ({"inputs": {"x": {"colum": "a"}}}, "inputs.x", "column"),
        ({"inputs": {"x": {"catgory": "a", "vocabulary": ["b"]}}}, "inputs.x", "category"),
        ({"inputs": {"x": ["a", {"text": "a", "tokeniser": "t"}]}}, "inputs.x[1]", "tokenizer"),
        ({"inputs": {"x": {"imge": "a", "size": [1, 1], "layout": "nchw"}}}, "inputs.x", "image"),
        ({"outputs": {"p": {"outptu": "p"}}}, "outputs.p", "output"),
        ({"missing": {"nul": "nan"}}, "missing", "null"),
        ({"on_error": {"max_fractoin": 0.1}}, "on_error", "max_fraction"),
        ({"sink": {"format": "delta", "location": "/a", "partitionBy": ["a"]}}, "sink", "partition_by"),
        ({"quarantine": {"paylod": "hash"}}, "quarantine", "payload"),
    ],
    ids=str,
)
def test_an_unknown_key_is_answered_with_the_near_one(changes: dict[str, Any], at: str, meant: str) -> None:
    failure = refusal(**changes)
    assert failure.code == "SPS-SPEC-KEY"
    assert failure.context.get("at", "") == at
    assert f"Did you mean '{meant}'" in failure.fix or f"or '{meant}'" in failure.fix


@pytest.mark.parametrize(
    ("changes", "at", "says"),
    [
        ({"version": 2}, "version", "number 2"),
        ({"name": 5}, "name", "Expected text, got number 5"),
        ({"name": "a b"}, "name", "'a b'"),
        ({"name": ""}, "name", "''"),
        ({"source": "/in"}, "source", "Expected a mapping (key: value), got text '/in'"),
        ({"source": source(location=[])}, "source.location", "list []"),
        ({"source": source(location=5)}, "source.location", "number 5"),
        ({"source": source(location=["/a", 5])}, "source.location[1]", "number 5"),
        ({"source": source(version=3)}, "source", "only with format delta"),
        ({"source": source(format="delta", version=-1)}, "source.version", "number -1"),
        ({"source": source(format="delta", version="one")}, "source.version", "whole number, got text 'one'"),
        ({"source": source(format="delta", version=1, timestamp="2013")}, "source", "got both"),
        ({"source": source(format="delta", schema="a int")}, "source", "no schema with format delta"),
        ({"source": source(options={"a": [1]})}, "source.options.a", "Expected text, got list"),
        ({"prepare": {"where": "a"}}, "prepare", "Expected a list, got mapping"),
        ({"prepare": [{}]}, "prepare[0]", "got none"),
        ({"prepare": [{"where": "a", "drop": ["b"]}]}, "prepare[0]", "where and drop"),
        ({"prepare": [{"with": {"a": 5}}]}, "prepare[0].with.a", "number 5"),
        ({"prepare": [{"select": "a"}]}, "prepare[0].select", "Expected a list"),
        ({"model": {"uri": "/m", "device": "gpu"}}, "model.device", "'cuda'"),
        ({"model": {"uri": "/m", "batch_size": 0}}, "model.batch_size", "number 0"),
        ({"model": {"uri": "/m", "batch_size": "many"}}, "model.batch_size", "whole number, got text 'many'"),
        ({"model": {"uri": "/m", "batch_size": True}}, "model.batch_size", "got true"),
        ({"model": {"uri": "/m", "allow_links": "yes"}}, "model.allow_links", "Expected true or false"),
        ({"model": {"uri": "/m", "precision": "double"}}, "model.precision", "'double'"),
        ({"model": {"uri": "s3://id:secret@b/m"}}, "model.uri", "without a secret"),
        ({"inputs": {}}, "inputs", "at least one, got mapping {}"),
        ({"inputs": {"x": []}}, "inputs.x", "got []"),
        ({"inputs": {"x": 5}}, "inputs.x", "got 5"),
        ({"inputs": {"x": ["a", 5]}}, "inputs.x", "got 5"),
        ({"inputs": {"x": {"column": 5}}}, "inputs.x.column", "number 5"),
        ({"inputs": {"x": {"column": "a", "columns": ["b"]}}}, "inputs.x", "got both"),
        ({"inputs": {"x": {"columns": []}}}, "inputs.x", "at least one column"),
        ({"inputs": {"x": {"null": "nan"}}}, "inputs.x", "at least one column"),
        ({"inputs": {"x": {"column": "a", "shape": [0]}}}, "inputs.x.shape[0]", "number 0"),
        ({"inputs": {"x": {"columns": ["a", "b"], "shape": [2]}}}, "inputs.x", "shape only beside"),
        ({"inputs": {"x": {"column": "a", "null": "drop"}}}, "inputs.x.null", "text 'drop'"),
        ({"inputs": {"x": {"column": "a", "null": "fill"}}}, "inputs.x", "fill in for null"),
        ({"inputs": {"x": {"column": "a", "fill": 0}}}, "inputs.x", "only with null: fill"),
        ({"inputs": {"x": {"column": "a", "null": "fill", "fill": float("nan")}}}, "inputs.x.fill", "nan"),
        ({"inputs": {"x": {"column": "a", "range": [1, 0]}}}, "inputs.x.range", "low <= high"),
        ({"inputs": {"x": {"column": "a", "range": [1]}}}, "inputs.x.range", "two"),
        ({"inputs": {"x": {"category": "a", "vocabulary": []}}}, "inputs.x.vocabulary", "got []"),
        ({"inputs": {"x": {"category": "a", "vocabulary": ["b", "b"]}}}, "inputs.x.vocabulary", "'b' twice"),
        ({"inputs": {"x": {"category": "a", "vocabulary": ["b", True]}}}, "inputs.x.vocabulary", "True"),
        ({"inputs": {"x": {"category": "a", "vocabulary": ["b"], "unknown": -1}}}, "inputs.x.unknown", "-1"),
        ({"inputs": {"x": {"text": "a", "tokenizer": "t", "field": "mask"}}}, "inputs.x.field", "'mask'"),
        ({"inputs": {"*": ["a"]}}, "inputs.*", "one text entry"),
        ({"inputs": {"*": {"text": "a", "tokenizer": "t", "field": "ids"}}}, "inputs.*", "without a field"),
        ({"inputs": {"x": {"image": "a", "size": [1]}}}, "inputs.x.size", "two"),
        ({"inputs": {"x": {"image": "a", "size": [1, 1], "std": [1, 1, 0]}}}, "inputs.x.std", "got 0"),
        ({"inputs": {"x": {"image": "a", "size": [1, 1], "mean": [1]}}}, "inputs.x.mean", "three numbers"),
        ({"outputs": {}}, "outputs", "{}"),
        ({"outputs": {"p": "gpu_0/softmax"}}, "outputs.p", "'gpu_0/softmax'"),
        ({"outputs": {"p": "probs[1]"}}, "outputs.p", "first axis is ':'"),
        ({"outputs": {"p": "probs[:, x]"}}, "outputs.p", "'[:, x]'"),
        ({"outputs": {"p": {"output": -1}}}, "outputs.p.output", "-1"),
        ({"outputs": {"p": {"output": "p", "then": ["softmx"]}}}, "outputs.p.then[0]", "'softmx'"),
        ({"outputs": {"p": {"output": "p", "then": [{"top_k": 0}]}}}, "outputs.p.then[0]", "got 0"),
        ({"outputs": {"p": {"output": "p", "then": [{"clip": [1, 0]}]}}}, "outputs.p.then[0]", "[1, 0]"),
        ({"outputs": {"p": {"output": "p", "then": [{"softmax": 1}]}}}, "outputs.p.then[0]", "no argument"),
        ({"outputs": {"p": {"output": "p", "then": ["top_k"]}}}, "outputs.p.then[0]", "got None"),
        ({"outputs": {"p": {"output": "p", "encode": "json"}}}, "outputs.p.encode", "'json'"),
        ({"missing": {"nan": "nan"}}, "missing.nan", "'nan'"),
        ({"keys": "tx_id"}, "keys", "Expected a list, got text 'tx_id'"),
        ({"keys": ["a", "a"]}, "keys", "'a' twice"),
        ({"keep": "amount"}, "keep", "'amount'"),
        ({"keep": ["a", 5]}, "keep", "5"),
        ({"on_error": {"policy": "null"}}, "on_error.policy", "'quarantine'"),
        ({"on_error": {"max_fraction": 5}}, "on_error.max_fraction", "number 5"),
        ({"on_error": {"max_fraction": "5 %"}}, "on_error.max_fraction", "Expected a number, got text '5 %'"),
        ({"on_error": {"max_rows": 1.5}}, "on_error.max_rows", "whole number"),
        ({"on_error": {"batch_timeout_s": 0}}, "on_error.batch_timeout_s", "number 0"),
        ({"on_error": {"batch_timeout_s": 900}}, "on_error", "more than batch_timeout_s (900), got 900"),
        ({"on_error": {"batch_timeout_s": float("inf")}}, "on_error.batch_timeout_s", "finite"),
        ({"sink": {"format": "delta", "location": "/a", "mode": "merge"}}, "sink.mode", "'merge'"),
        ({"sink": {"format": "delta", "location": "/a", "options": {"txnVersion": 1}}}, "sink.options", "'txnVersion'"),
        ({"sink": {"format": "text", "location": "/a"}}, "sink.format", "one column of text"),
        ({"sink": {"format": "Parquet", "location": "/a"}}, "sink.format", "'Parquet'"),
        ({"sink": {"format": "delta", "location": "/a", "table": "a.b"}}, "sink", "got both"),
        ({"sink": {"format": "delta", "table": "a b"}, "ledger": "/l"}, "sink.table", "'a b'"),
        ({"sink": {"format": "parquet", "table": "a.b"}, "ledger": "/l"}, "sink.table", "got parquet"),
        ({"sink": {"format": "delta", "location": "/a", "mode": "overwrite"}}, "sink.publish", "publish: atomic"),
        ({"sink": {"format": "csv", "location": "/a", "mode": "overwrite"}}, "sink.mode", "got overwrite"),
        ({"sink": {"format": "delta", "location": "/a", "replace_where": "a > 1"}}, "sink.mode", "mode: overwrite"),
        ({"sink": {"format": "jdbc", "partition_by": ["a"]}, "ledger": "/l"}, "sink.partition_by", "got it with jdbc"),
        ({"quarantine": {"payload": "all"}}, "quarantine.payload", "'all'"),
        ({"quarantine": {"keep_days": 0}}, "quarantine.keep_days", "number 0"),
        ({"quarantine": {"keep_days": 40_000}}, "quarantine.keep_days", "less than or equal to 36500"),
        ({"quarantine": {"location": "/out/scores/bad"}}, "quarantine.location", "beside the sink"),
        ({"ledger": "/out/scores"}, "ledger", "beside the sink"),
        ({"ledger": "/out/scores/_ledger"}, "ledger", "beside the sink"),
        ({"scan": "fast"}, "scan", "'fast'"),
    ],
    ids=str,
)
def test_a_wrong_value_says_where_what_was_expected_and_got(changes: dict[str, Any], at: str, says: str) -> None:
    failure = refusal(**changes)
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-VALUE", at)
    assert says in failure.message
    assert failure.message.startswith(("Expected", "Option"))
    assert failure.fix


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"stream": {}}, "stream"),
        ({"audit": {"label": {}}}, "audit"),
        ({"source": source(format="kafka")}, "source.format"),
        ({"source": {"format": "x", "credentials": {"key": "secretsmanager:arn"}}}, "source.credentials"),
        ({"model": {"uri": "/m", "precision": "int8"}}, "model.precision"),
        ({"model": {"uri": "/m", "verify": "oms"}}, "model.verify"),
        ({"sink": {"format": "kafka", "location": "/a"}}, "sink.format"),
    ],
    ids=str,
)
def test_a_key_of_a_later_version_is_refused_as_such(changes: dict[str, Any], at: str) -> None:
    failure = refusal(**changes)
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-LATER", at)
    assert "not in this version" in failure.message


@pytest.mark.parametrize(
    "option",
    [
        {"ignoreCorruptFiles": True},
        {"IGNOREMISSINGFILES": "false"},
        {"mode": "DROPMALFORMED"},
        {"Mode": "failfast"},
        {"columnNameOfCorruptRecord": "c"},
        {"badRecordsPath": "/x"},
        {"versionAsOf": 1},
        {"path": "/x"},
        {"fs.s3a.secret.key": "x"},
        {"password": "x"},
    ],
    ids=str,
)
def test_a_reader_option_that_hides_damage_or_holds_a_secret_is_refused(option: dict[str, Any]) -> None:
    failure = refusal(source=source(options=option))
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-VALUE", "source.options")
    assert next(iter(option)) in failure.message


def test_the_permissive_mode_is_no_damage() -> None:
    assert load(source=source(options={"mode": "PERMISSIVE"})).source.options == {"mode": "PERMISSIVE"}


REPLACING = {"format": "delta", "location": "/a", "mode": "overwrite", "publish": "atomic"}


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"source": source(where="a > (select 1)")}, "source.where"),
        ({"prepare": [{"where": "a > 0"}, {"where": "rand() < 0.1"}]}, "prepare[1].where"),
        ({"prepare": [{"with": {"b": "java_method('a', 'b')"}}]}, "prepare[0].with.b"),
        (
            {"sink": REPLACING | {"replace_where": "rand() < 1"}},
            "sink.replace_where",
        ),
    ],
)
def test_an_expression_outside_the_allow_list_says_where(changes: dict[str, Any], at: str) -> None:
    failure = refusal(**changes)
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-EXPRESSION", at)


def test_limits_of_money_need_prices_and_no_limit_is_zero() -> None:
    assert load(limits={"usd": "1.5", "prices": {"core_hour": 0}}).limits.usd == 1.5
    failure = refusal(limits={"usd": 1})
    assert (failure.code, failure.context["at"]) == ("SPS-SPEC-KEY", "limits.prices")
    for limits, at in (({"hours": 0}, "limits.hours"), ({"rows": 0.5}, "limits.rows"), ({"usd": -1}, "limits.usd")):
        failure = refusal(limits=limits)
        assert (failure.code, failure.context["at"]) == ("SPS-SPEC-VALUE", at)


def test_several_mistakes_are_all_named_and_a_typo_comes_first() -> None:
    failure = refusal(scan="fast", keys="a", model={"uri": "/m", "devise": "cpu"})
    assert failure.code == "SPS-SPEC-KEY"
    assert "devise" in failure.message
    assert "keys" in failure.message
    assert "scan" in failure.message


def test_a_secret_is_never_repeated_in_the_error() -> None:
    assert "hunter2" not in str(refusal(model={"uri": "s3://id:hunter2@bucket/m"}))
    assert "hunter2" not in str(refusal(model="s3://id:hunter2@bucket/m"))
    assert "hunter2" not in str(refusal(source=source(options={"password": "hunter2"})))


def test_the_error_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(MINIMAL.replace("inputs", "input"))
    with pytest.raises(SpecError) as caught:
        load_pipeline(file)
    assert caught.value.context["file"] == str(file)
