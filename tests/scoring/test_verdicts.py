"""What is kept of a bad row: one sha256 for one content, whatever bytes its texts hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import sparkscore as ss
from sparkscore.runtime.faults import Fault
from sparkscore.runtime.sealing import open_sealed, q_id
from sparkscore.scoring.verdicts import Verdict, verdicts
from sparkscore.spec.scoring import CORRUPT_COL, FILE_COL, ROW_COL, ModelRef, ScoringPlan, Sealing
from tests.contract.cases import saved
from tests.scoring.graphs import FLOAT, INT64, STRING, graph, helper

LATIN = b"caf\xe9"


def texts(*values: bytes | None) -> pa.Array:
    """Texts of any bytes, as a Parquet reader gives them: unchecked."""
    return pa.array(values, pa.binary()).view(pa.string())


def verdict(batch: pa.RecordBatch, **plan: Any) -> Verdict:
    """What is said of the first row of a batch whose columns are all keys."""
    none = np.zeros(batch.num_rows, np.int32)
    fault = Fault("pre", "SPS-ROW-NULL", "O3", None, "m")
    keys = tuple(batch.schema.names)
    planned = ScoringPlan(ModelRef("m", "1", "0", "m", "m", ()), (), (), (), **{"keys": keys, **plan})
    return verdicts(batch, {0: fault}, planned, (none, none))[0]


def payload(cells: pa.Array, name: str = "a") -> bytes:
    found = verdict(pa.record_batch([cells], [name]), payload="plain")
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


def test_an_encrypted_payload_is_bound_to_its_row_and_has_no_sha256_beside_it() -> None:
    batch = pa.record_batch([pa.array([5]), pa.array(["file:/a"]), pa.array([7])], ["a", FILE_COL, ROW_COL])
    key = bytes(range(32))
    found = verdict(batch, keys=("a",), payload="encrypted", sealing=Sealing(key, "r1", "u1"))
    assert found["payload_sha256"] is None
    assert open_sealed(key, found["payload"], q_id("r1", "u1", "file:/a#7", "pre")) == b'{"a":5}'
    without = verdict(batch, keys=("a",), payload="encrypted")  # outside a run there is no key: nothing is kept
    assert (without["payload"], without["payload_sha256"]) == (None, None)
    assert repr(key) not in repr(Sealing(key))


@pytest.mark.parametrize(
    "deny, content",
    [
        ((), b'{"_ss_corrupt":"l","a":1,"s":{"b":2},"s.b":3}'),
        (("a",), b'{"s":{"b":2},"s.b":3}'),
        (("s",), b'{"a":1}'),
        (("s.b",), b'{"a":1}'),
        (("a", "s"), b"{}"),
    ],
)
def test_a_denied_column_is_in_no_payload_nor_is_what_holds_it(deny: tuple[str, ...], content: bytes) -> None:
    columns = {"a": [1], "s": [{"b": 2}], "s.b": [3], CORRUPT_COL: ["l"]}
    found = verdict(pa.RecordBatch.from_pydict(columns), keys=("a", "s", "s.b"), payload="plain", deny=deny)
    assert found["payload"] == content
    assert found["payload_sha256"] == hashlib.sha256(content).hexdigest()


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
