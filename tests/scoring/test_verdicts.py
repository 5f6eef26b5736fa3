"""What is kept of a bad row: one sha256 for one content, whatever bytes its texts hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import sparkscore as ss
from sparkscore.runtime.faults import Fault
from sparkscore.scoring.verdicts import verdicts
from sparkscore.spec.scoring import CORRUPT_COL, ModelRef, ScoringPlan
from tests.contract.cases import saved
from tests.scoring.graphs import FLOAT, INT64, STRING, graph, helper

LATIN = b"caf\xe9"


def texts(*values: bytes | None) -> pa.Array:
    """Texts of any bytes, as a Parquet reader gives them: unchecked."""
    return pa.array(values, pa.binary()).view(pa.string())


def payload(cells: pa.Array, name: str = "a") -> bytes:
    none = np.zeros(len(cells), np.int32)
    fault = Fault("pre", "SPS-ROW-NULL", "O3", None, "m")
    plan = ScoringPlan(ModelRef("m", "1", "0", "m", "m", ()), (), (), (), keys=(name,), payload="plain")
    found = verdicts(pa.record_batch([cells], [name]), {0: fault}, plan, (none, none))[0]
    assert found["payload_sha256"] == hashlib.sha256(found["payload"]).hexdigest()
    content: bytes = found["payload"]
    return content


@pytest.mark.parametrize("change", ["plain", "large", "dictionary"])
def test_bytes_that_are_not_utf8_have_one_form_in_each_type_of_text(change: str) -> None:
    cells = texts(LATIN, b"plain")
    if change != "plain":
        cells = cells.dictionary_encode() if change == "dictionary" else cells.cast(pa.large_string())
    found = payload(cells)
    assert found == rb'{"a":"caf\udce9"}'
    assert json.loads(found)["a"].encode("utf-8", "surrogateescape") == LATIN


def test_they_have_it_in_lists_and_structs_and_a_text_of_those_letters_has_another() -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), texts(LATIN, None))
    assert payload(pa.StructArray.from_arrays([lists], ["b"])) == rb'{"a":{"b":["caf\udce9",null]}}'
    assert payload(texts(rb"caf\udce9")) == rb'{"a":"caf\\udce9"}'


def test_a_malformed_line_keeps_its_bytes() -> None:
    assert payload(texts(b'{"a": "\xe9'), CORRUPT_COL) == b'{"' + CORRUPT_COL.encode() + rb'":"{\"a\": \"\udce9"}'


def test_rows_with_such_a_text_are_scored_or_refused_row_by_row(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["cat"], ["f"], to=FLOAT),
        helper.make_node("Add", ["f", "x"], ["y"]),
        helper.make_node("Identity", ["t"], ["u"]),
    ]
    inputs = [("cat", INT64, ["n"]), ("x", FLOAT, ["n"]), ("t", STRING, ["n"])]
    model = saved(tmp_path, graph(nodes, inputs, [("y", FLOAT, ["n"]), ("u", STRING, ["n"])]))
    table = pa.table(
        {
            "key": texts(b"k0", b"k\xe9", b"k\xe9", b"k3"),  # a key that is not UTF-8, of a good and of a bad row
            "cat": texts(b"A", b"A", b"A", b"\xe9"),
            "x": pa.array([1, 2, None, 4], pa.float32()),
            "t": texts(b"good", b"good", b"good", b"good"),
            "s": texts(b"good", b"good", b"good", LATIN),
        }
    )
    fed = {"cat": {"category": "cat", "vocabulary": ["A"]}, "x": "x", "t": "t"}
    outputs = {"y": "y", "u": "u"}

    def codes(inputs: dict[str, object], **options: object) -> list[str | None]:
        found = ss.score_local(table, model, inputs, outputs, keys=["key"], **options)
        assert found["y"].to_pylist()[:2] == [1, 2]
        return [err and err["error_code"] for err in found["err"].to_pylist()]

    assert codes(fed) == [None, None, "SPS-ROW-NULL", "SPS-ROW-CATEGORY"]
    known = {**fed, "cat": {"category": "cat", "vocabulary": ["A"], "unknown": 1}}
    assert codes(known) == [None, None, "SPS-ROW-NULL", None]
    assert codes({**known, "t": "s"}) == [None, None, "SPS-ROW-NULL", "SPS-ROW-DECODE"]


def test_a_bad_row_may_hold_a_string_view(tmp_path: Path) -> None:
    model = saved(
        tmp_path, graph([helper.make_node("Abs", ["x"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])])
    )
    table = pa.table({"k": pa.array(["a", "b"]).cast(pa.string_view()), "x": pa.array([-1, None], pa.float32())})
    found = ss.score_local(table, model, {"x": "x"}, {"y": "y"}, keys=["k"])
    assert found["k"].to_pylist() == ["a", "b"]
    assert found["y"].to_pylist() == [1, None]
