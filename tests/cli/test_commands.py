"""The commands that need no Spark: what they say, as text and as JSON, and that they never load pyspark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparkscore._version import __version__
from sparkscore.ledger.claims import claim_run
from sparkscore.ledger.events import EventLog
from sparkscore.ledger.plans import InputFile, Plan, Unit, unit_id, write_plan
from sparkscore.ledger.store import LocalStore
from tests.run.conftest import linear_model
from tests.scoring.graphs import FLOAT, graph, helper


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger with one run of two units, of which the first is committed and the second broke the budget."""
    store = LocalStore(tmp_path / "ledger")
    files = [(InputFile(f"/in/{i}.parquet", 10, 0, 1000),) for i in range(2)]
    units = tuple(Unit(i, unit_id(f), f) for i, f in enumerate(files))
    header = {
        "run_id": "r1",
        "ledger_version": 1,
        "code_version": __version__,
        "pipeline_name": "t",
        "spec_sha256": "0" * 64,
        "model": {"uri": "m.onnx", "version": "7", "sha256": "1" * 64},
        "input": {"format": "parquet"},
        "sink": "/out",
        "quarantine": "/bad",
        "balance_basis": "footer",
        "planned_rows": 2000,
        "warnings": [],
    }
    write_plan(store, Plan(header, units))
    with claim_run(store, "r1", say=print) as claim:
        events = EventLog(store, "r1", claim.attempt)
        events.write("run_claimed", device="cpu")
        events.write(
            "unit_committed",
            unit_seq=0,
            unit_id=units[0].unit_id,
            committed_version=0,
            ok_rows=970,
            quarantined_rows=30,
            bad_by_code={"SPS-ROW-NULL": 20, "SPS-ROW-INF": 10},
            in_rows=1000,
            filtered_rows={},
            scored_rows=970,
            model_calls=1,
            rows_truncated=12,
            tokens=1000,
            tokens_computed=1030,
            providers={"CPUExecutionProvider": 1},
            wall_ms=100,
        )
        events.write("run_failed", code="SPS-BUDGET", message="[SPS-BUDGET] too many", exit_code=6)
    return tmp_path / "ledger"


def test_runs_list_gives_each_run_by_its_newest_attempt(sparkscore, ledger: Path) -> None:
    told = sparkscore("runs", "list", "--ledger", ledger)
    head, _, row = told.out.strip().splitlines()
    assert head.split()[:3] == ["run_id", "state", "exit_code"]
    assert row.split()[:7] == ["r1", "FAILED", "6", "1", "2000", "970", "30"]
    (found,) = sparkscore("runs", "list", "--ledger", ledger, "--json").json
    assert (found["run_id"], found["state"], found["error_code"]) == ("r1", "FAILED", "SPS-BUDGET")


def test_runs_list_finds_the_ledger_in_a_pipeline_file(sparkscore, ledger: Path, pipeline_file) -> None:
    assert "r1" in sparkscore("runs", "list", pipeline_file()).out
    other = sparkscore("runs", "list", pipeline_file(), "--set", f"ledger={ledger}_other")
    assert other.out == f"no runs in {ledger}_other\n"


def test_runs_show_gives_the_verdict_the_attempts_and_the_units(sparkscore, ledger: Path) -> None:
    told = sparkscore("runs", "show", "r1", "--ledger", ledger)
    assert "run r1: FAILED" in told.out
    assert "SPS-ROW-NULL       20" in told.out
    assert "texts cut to max_tokens: 12\n    tokens: 1,000, with padding 1,030\n" in told.out
    assert "[SPS-BUDGET] too many" in told.out
    found = sparkscore("runs", "show", "r1", "--ledger", ledger, "--json").json
    assert [found[name] for name in ("truncated_rows", "tokens", "tokens_computed")] == [12, 1000, 1030]
    assert [u["state"] for u in found["unit_rows"]] == ["COMMITTED", "PLANNED"]
    assert [a["exit_code"] for a in found["attempts"]] == [6]


def test_quarantine_summary_counts_by_code_and_names_the_worst_units(sparkscore, ledger: Path) -> None:
    told = sparkscore("quarantine", "summary", "r1", "--ledger", ledger)
    assert told.out.startswith("run r1: 30 bad rows in 1 of 2 units\n")
    assert "SPS-ROW-NULL  20    null in a fed column" in told.out
    found = sparkscore("quarantine", "summary", "r1", "--ledger", ledger, "--json").json
    assert [(c["code"], c["rows"]) for c in found["by_code"]] == [("SPS-ROW-NULL", 20), ("SPS-ROW-INF", 10)]
    assert found["worst_units"] == [{"unit_seq": 0, "quarantined_rows": 30, "planned_rows": 1000}]


@pytest.mark.parametrize("command", [("runs", "show"), ("quarantine", "summary")])
def test_a_run_that_the_ledger_does_not_hold_is_told_with_those_that_it_does(sparkscore, ledger, command) -> None:
    told = sparkscore(*command, "nosuch", "--ledger", ledger)
    assert told.exit_code == 2
    assert "[SPS-RUN-UNKNOWN]" in told.err
    assert "it holds r1" in told.err


def test_a_resume_of_an_unknown_run_starts_nothing(sparkscore, ledger: Path, pipeline_file) -> None:
    told = sparkscore("runs", "resume", "nosuch", pipeline_file())
    assert (told.exit_code, "SPS-RUN-UNKNOWN" in told.err) == (2, True)


def test_a_ledger_command_wants_a_file_or_a_ledger_and_not_both(sparkscore, ledger: Path, pipeline_file) -> None:
    assert "got neither" in sparkscore("runs", "list").err
    assert "got both" in sparkscore("runs", "list", pipeline_file(), "--ledger", ledger).err


@pytest.mark.parametrize("command", [("runs", "list"), ("runs", "show", "r1"), ("quarantine", "summary", "r1")])
def test_a_ledger_that_cannot_be_read_is_the_environments_fault(sparkscore, tmp_path: Path, command) -> None:
    (tmp_path / "file").write_text("not a folder")
    told = sparkscore(*command, "--ledger", tmp_path / "file")
    assert told.exit_code == 4
    assert "SPS-ENV-LEDGER" in told.err


def test_model_inspect_tells_tensors_files_and_digest(sparkscore, tmp_path: Path) -> None:
    told = sparkscore("model", "inspect", linear_model(tmp_path / "linear.onnx"))
    assert "input   x     float32  (?, 3)" in told.out
    found = sparkscore("model", "inspect", tmp_path / "linear.onnx", "--json").json
    assert found["outputs"] == [{"kind": "output", "name": "y", "dtype": "float32", "shape": [None, 1]}]
    assert "CPUExecutionProvider" in found["providers"]
    assert [f["path"] for f in found["files"]] == ["linear.onnx"]
    assert len(found["sha256"]) == 64


def test_model_inspect_of_no_model(sparkscore, tmp_path: Path) -> None:
    assert sparkscore("model", "inspect", tmp_path / "no.onnx").exit_code == 5


def test_model_wrap_writes_a_model_of_bytes_and_says_how_to_feed_it(sparkscore, tmp_path: Path) -> None:
    floats = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)
    made = graph([floats], [("x", FLOAT, ["n", 3, 4, 6])], [("y", FLOAT, ["n"])])
    (tmp_path / "floats.onnx").write_bytes(made)
    settings = ("--scale", "0.0039", "--mean", "0.4", "0.5", "0.6", "--std", "0.2", "0.2", "0.3")
    told = sparkscore("model", "wrap", tmp_path / "floats.onnx", tmp_path / "bytes", *settings)
    assert "x: {image: COLUMN, size: [4, 6], layout: nhwc, dtype: uint8}" in told.out
    assert "on 8 images; largest difference 0\n" in told.out
    found = sparkscore("model", "inspect", tmp_path / "bytes", "--json").json
    assert found["inputs"] == [{"kind": "input", "name": "x", "dtype": "uint8", "shape": [None, 4, 6, 3]}]
    assert sparkscore("model", "wrap", tmp_path / "floats.onnx", tmp_path / "bytes").exit_code == 2


def test_spec_validate_and_show_tell_what_a_file_comes_to(sparkscore, pipeline_file) -> None:
    file = pipeline_file(name="${who}")
    told = sparkscore("spec", "validate", file, "--set", "who=me")
    assert told.exit_code == 0
    assert "valid" in told.out
    shown = sparkscore("spec", "show", file, "--set", "who=me", "--set", "on_error.max_rows=5", "--json").json
    assert (shown["name"], shown["on_error"]["max_rows"]) == ("me", 5)
    assert "name: me" in sparkscore("spec", "show", file, "--set", "who=me").out


def test_a_failure_with_json_is_one_object_on_stdout(sparkscore, pipeline_file) -> None:
    told = sparkscore("spec", "validate", pipeline_file(name="${who}"), "--json")
    assert told.json["code"] == "SPS-SPEC-VARIABLE"
    assert told.json["exit_code"] == told.exit_code == 2
    assert told.json["message"] in told.err


def test_spec_schema_is_the_json_schema(sparkscore) -> None:
    assert sparkscore("spec", "schema").json["properties"]["source"]


def test_jars_are_listed_with_their_digests(sparkscore) -> None:
    assert "io.delta:delta-spark_4.2_2.13:4.4.0" in sparkscore("jars").out
    assert "hadoop-aws" not in sparkscore("jars").out
    assert "org.apache.hadoop:hadoop-aws:3.5.0" in sparkscore("jars", "--s3").out
    assert all(len(jar["sha256"]) == 64 for jar in sparkscore("jars", "--s3", "--json").json)


@pytest.mark.parametrize("text", ["novalue", "=1"])
def test_a_set_without_key_and_value_is_refused(sparkscore, pipeline_file, text: str) -> None:
    told = sparkscore("spec", "validate", pipeline_file(), "--set", text)
    assert (told.exit_code, "SPS-SPEC-VALUE" in told.err) == (2, True)


@pytest.mark.parametrize(
    "keys",
    [
        {"sink": {"format": "delta", "location": "s3a://AKIA:ca/na+ry@bucket/out"}},
        {"source": {"format": "parquet", "location": "s3a://AKIA:ca/na+ry@bucket/in"}},
        {"source": {"format": "parquet", "location": "/in", "options": {"fs.azure.account.key.x": "ca/na+ry"}}},
        {"model": {"uri": "s3a://AKIA:ca/na+ry@bucket/m.onnx"}},
    ],
    ids=["sink", "source", "option", "model"],
)
def test_a_secret_is_in_nothing_that_a_command_says_or_writes(sparkscore, pipeline_file, tmp_path, keys) -> None:
    file = pipeline_file(**keys)
    file.rename(tmp_path.parent / "secret.yaml")
    for command in (["score", "--result", tmp_path / "result.json"], ["spec", "validate"], ["spec", "show", "--json"]):
        told = sparkscore(*command, tmp_path.parent / "secret.yaml")
        assert told.exit_code == 2
        assert "ca/na" not in told.out + told.err
    told = sparkscore("model", "inspect", "s3a://AKIA:ca/na+ry@bucket/m.onnx")
    assert "ca/na" not in told.out + told.err
    assert [p for p in tmp_path.rglob("*") if p.is_file() and b"ca/na" in p.read_bytes()] == []


def test_an_unknown_command_is_a_usage_error(sparkscore) -> None:
    told = sparkscore("scor")
    assert told.exit_code == 2
    assert "score" in told.err


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparkscore", "spec", "validate", str(tmp_path / "no.yaml")]
    quiet = subprocess.run(command, capture_output=True, text=True, check=False)
    loud = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert quiet.returncode == loud.returncode == 2
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


_COMMANDS = [
    ["--version"],
    ["--help"],
    ["jars"],
    ["spec", "schema"],
    ["spec", "validate", "{file}"],
    ["spec", "show", "{file}"],
    ["model", "inspect", "{model}"],
    ["runs", "list", "{file}"],
    ["runs", "show", "r1", "{file}"],
    ["quarantine", "summary", "r1", "{file}"],
]


def test_commands_without_spark_never_load_it(pipeline_file, ledger: Path, tmp_path: Path) -> None:
    names = {"{file}": str(pipeline_file()), "{model}": str(tmp_path / "linear.onnx")}
    commands = [[names.get(arg, arg) for arg in command] for command in _COMMANDS]
    program = (
        "import json, sys\n"
        "from sparkscore.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    main(command)\n"
        "    assert 'pyspark' not in sys.modules, command\n"
    )
    done = subprocess.run([sys.executable, "-c", program, json.dumps(commands)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
