"""Bad rows of real files: each is quarantined with its own code, its address and its stage, and the rest is scored."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from sparkscore.errors import SparkscoreError
from sparkscore.run.planning import bound, make_plan, restore
from sparkscore.runtime.encoders.decoders import installed_decoder
from sparkscore.scoring.scorer import open_scorer
from tests.contract.cases import saved
from tests.run.conftest import delta_rows, write_rows
from tests.scoring.graphs import FLOAT, INT64, graph, helper

pytestmark = pytest.mark.spark

BEARABLE = {"max_fraction": 1.0, "max_consecutive_bad_batches": 1000}


def picture() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.full((2, 2, 3), 7, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def every_encoder(folder: Path) -> str:
    """y = the sum of what each encoder made of its column."""
    sums = [
        helper.make_node("ReduceSum", ["x", "one"], ["x1"], keepdims=0),
        helper.make_node("Cast", ["i"], ["i1"], to=FLOAT),
        helper.make_node("Cast", ["cat"], ["cat1"], to=FLOAT),
        helper.make_node("ReduceSum", ["v", "one"], ["v1"], keepdims=0),
        helper.make_node("Cast", ["ids"], ["ids0"], to=FLOAT),
        helper.make_node("ReduceSum", ["ids0", "one"], ["ids1"], keepdims=0),
        helper.make_node("ReduceSum", ["pixels", "three"], ["pixels1"], keepdims=0),
        helper.make_node("Sum", ["x1", "i1", "cat1", "v1", "ids1", "pixels1"], ["y"]),
    ]
    inputs = [
        ("x", FLOAT, ["n", 2]),
        ("i", INT64, ["n"]),
        ("cat", INT64, ["n"]),
        ("v", FLOAT, ["n", 3]),
        ("ids", INT64, ["n", "tokens"]),
        ("pixels", FLOAT, ["n", 3, 2, 2]),
    ]
    axes = [("one", np.array([1], np.int64)), ("three", np.array([1, 2, 3], np.int64))]
    return saved(folder, graph(sums, inputs, [("y", FLOAT, ["n"])], axes))


def tokenizer(folder: Path) -> str:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1, "film": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


# Row of the file -> the column that is changed there, its value, and the code that the row then has.
CHANGES = {
    3: ("a", None, "SPS-ROW-NULL"),
    4: ("a", float("nan"), "SPS-ROW-NAN"),
    5: ("a", float("-inf"), "SPS-ROW-INF"),
    6: ("b", 7.5, "SPS-ROW-RANGE"),
    7: ("i", 101, "SPS-ROW-RANGE"),
    8: ("cat", "ZZ", "SPS-ROW-CATEGORY"),
    9: ("v", [1.0], "SPS-ROW-SHAPE"),
    10: ("v", [1.0, None, 2.0], "SPS-ROW-NULL"),
    11: ("v", None, "SPS-ROW-NULL"),
    12: ("text", "good good good", "SPS-ROW-LENGTH"),
    13: ("image", b"no image", "SPS-ROW-DECODE"),
    14: ("image", picture()[:40], "SPS-ROW-DECODE"),
    15: ("image", bytes(3000), "SPS-ROW-BYTES"),
}


def test_each_kind_of_bad_row_has_its_code_and_address_and_the_others_are_scored(spark, pipeline, tmp_path) -> None:
    row = {"a": 1.0, "b": 0.5, "i": 4, "cat": "B6", "v": [1.0, 2.0, 3.0], "text": "good film", "image": picture()}
    rows = [{"id": n, **row} for n in range(20)]
    for n, (column, value, _) in CHANGES.items():
        rows[n][column] = value
    types = {"id": pa.int64(), "a": pa.float64(), "b": pa.float64(), "i": pa.int64(), "cat": pa.string()}
    types |= {"v": pa.list_(pa.float32()), "text": pa.string(), "image": pa.binary()}
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(types.items()))), tmp_path / "in" / "x.parquet")
    inputs = {
        "x": [{"column": "a", "nan": "error"}, {"column": "b", "range": [0, 1]}],
        "i": {"column": "i", "range": [0, 100]},
        "cat": {"category": "cat", "vocabulary": ["AA", "B6"]},
        "v": "v",
        "ids": {"text": "text", "tokenizer": tokenizer(tmp_path), "max_tokens": 2, "overlong": "error"},
        "pixels": {"image": "image", "size": [2, 2], "max_bytes": 2000},
    }
    model = {"uri": every_encoder(tmp_path / "model")}
    run = pipeline(model=model, inputs=inputs, outputs={"score": "y"}, on_error=BEARABLE).run(spark, run_id="r1")

    found = {r["id"]: r for r in delta_rows(tmp_path / "out").to_pylist()}
    assert {n: r["_ss"]["error_code"] for n, r in found.items() if r["_ss"]["status"] == "error"} == {
        n: code for n, (*_, code) in CHANGES.items()
    }
    good = 1 + 0.5 + 4 + 1 + 6 + 3 + 12 * 7
    assert {n: r["score"] for n, r in found.items()} == {n: None if n in CHANGES else good for n in range(20)}
    for n in CHANGES:
        verdict = found[n]["_ss"]
        assert verdict["source_pointer"] == f"file:{tmp_path}/in/x.parquet#{n}"
        assert verdict["stage"] == ("decode" if "DECODE" in verdict["error_code"] else "pre")
        assert verdict["error_message"].startswith("Expected ") or "'" in verdict["error_message"]
        assert verdict["payload_sha256"]
        assert verdict["payload"] is None
    summary = run.summary()
    assert (summary.ok_rows, summary.quarantined_rows) == (7, 13)
    assert summary.quarantined_by_code["SPS-ROW-NULL"] == 3


def test_an_attempt_decodes_images_by_the_packages_that_its_run_was_planned_with(spark, pipeline, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": [1], "image": [picture()]}), tmp_path / "in" / "x.parquet")
    total = helper.make_node("ReduceSum", ["pixels", "axes"], ["y"], keepdims=0)
    made = graph([total], [("pixels", FLOAT, ["n", 3, 2, 2])], [("y", FLOAT, ["n"])], [("axes", np.array([1, 2, 3]))])
    model, inputs = {"uri": saved(tmp_path / "model", made)}, {"pixels": {"image": "image", "size": [2, 2]}}
    mine = pipeline(model=model, inputs=inputs, outputs={"score": "y"}).spec
    plan = make_plan(spark, bound(spark, mine), "r1")
    assert plan.header["decoder"] == installed_decoder()

    later = restore(spark, mine, replace(plan, header={**plan.header, "decoder": "pillow==1.0"}))
    with pytest.raises(SparkscoreError, match=r"\[SPS-ENV-PACKAGE\] .* planned with: pillow==1\.0\."):
        open_scorer(later.scoring)


def test_a_run_without_a_good_row_fails_and_its_rows_are_told(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 50, 1, bad=lambda i: True)
    with pytest.raises(SparkscoreError) as caught:
        pipeline(on_error=BEARABLE).run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-NO-OK-ROWS", 6)
    assert "0 of 50" in caught.value.message
    assert {r["_ss"]["error_code"] for r in delta_rows(tmp_path / "out").to_pylist()} == {"SPS-ROW-NULL"}


def test_a_run_over_its_budget_in_its_only_unit_fails_with_the_budget(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 2_000, 1, bad=lambda i: i >= 1_900)
    with pytest.raises(SparkscoreError) as caught:
        pipeline().run(spark, run_id="r1")
    assert (caught.value.code, caught.value.exit_code) == ("SPS-BUDGET", 6)
    assert not list((tmp_path / "out" / "_delta_log").glob("*.json"))  # the task knew before the commit


def test_a_prepare_expression_that_raises_is_named_with_its_try_form_and_no_value(spark, pipeline, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    mails = ["1", "john@example.com", "3"]
    pq.write_table(
        pa.table({"id": [1, 2, 3], "mail": mails, "b": [1.0] * 3, "c": [1.0] * 3}), tmp_path / "in" / "x.parquet"
    )
    prepare = [{"where": "b > 0"}, {"with": {"k": "b * 2"}}, {"with": {"a": "CAST(mail AS INT)"}}]
    with pytest.raises(SparkscoreError) as caught:
        pipeline(prepare=prepare, on_error=BEARABLE).run(spark, run_id="r1")
    found = caught.value
    assert (found.code, found.exit_code) == ("SPS-PREPARE", 6)
    assert found.context["expression"] == "prepare[2].with.a: CAST(mail AS INT)"
    assert "try_cast" in found.fix
    events = "".join(p.read_text() for p in (tmp_path / "out_ledger" / "events").rglob("*.json"))
    assert "SPS-PREPARE" in events
    assert "john" not in str(found) + events


def test_a_guard_before_an_expression_keeps_it_from_raising(spark, pipeline, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(
        pa.table({"id": [1, 2, 3], "n": [4, 0, 2], "b": [1.0] * 3, "c": [0.0] * 3}), tmp_path / "in" / "x.parquet"
    )
    prepare = [{"where": "n <> 0"}, {"with": {"a": "8 / n"}}]
    summary = pipeline(prepare=prepare).run(spark, run_id="r1").summary()
    assert summary.filtered_rows == {"prepare[0]: n <> 0": 1}
    assert {r["id"]: r["score"] for r in delta_rows(tmp_path / "out").to_pylist()} == {1: 0.75, 3: 1.75}


def test_the_column_of_an_earlier_run_is_dropped_with_an_event(spark, pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 20, 1)
    pipeline(keep=["id", "a", "b", "c"]).run(spark, run_id="r1")
    sink = {"format": "delta", "location": str(tmp_path / "again")}
    source = {"format": "delta", "location": str(tmp_path / "out")}
    outputs = {"score2": "y[:, 0]"}
    pipeline(source=source, sink=sink, keep="all", outputs=outputs).run(spark, run_id="r2")
    rows = delta_rows(tmp_path / "again")
    assert {r["run_id"] for r in rows["_ss"].to_pylist()} == {"r2"}
    assert rows["score"].to_pylist() == rows["score2"].to_pylist()
    events = [p.read_text() for p in (tmp_path / "again_ledger" / "events" / "r2").rglob("*.json")]
    assert sum("input_ss_dropped" in e for e in events) == 1
