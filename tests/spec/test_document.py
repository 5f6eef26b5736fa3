"""Text to document: YAML without the surprises of version 1.1, limits, overrides and variables."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkscore.errors import SpecError
from sparkscore.spec.document import read_document


def read(text: str, sets: dict[str, str] | None = None, env: dict[str, str] | None = None) -> dict[str, Any]:
    return read_document(text + "\n", sets, env or {})


def refusal(text: str, sets: dict[str, str] | None = None) -> SpecError:
    with pytest.raises(SpecError) as caught:
        read(text, sets)
    return caught.value


@pytest.mark.parametrize("word", ["y", "n", "on", "off", "yes", "no", "On", "NO", "nan", "inf", "1:30", "010", "0x1F"])
def test_a_word_that_yaml_1_1_reads_otherwise_stays_text(word: str) -> None:
    assert read(f"a: {word}\n{word}: 1") == {"a": word, word: 1}


def test_a_date_stays_text() -> None:
    assert read("a: 2013-01-01") == {"a": "2013-01-01"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("12", 12),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("1e6", 1e6),
        (".5", 0.5),
    ],
)
def test_numbers_and_flags_are_read_as_such(text: str, value: object) -> None:
    found = read(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["a: null", "a: ~", "a:"])
def test_null_is_nothing(text: str) -> None:
    assert read(text) == {"a": None}


def test_a_key_null_is_the_text_null() -> None:
    assert read("missing: {null: nan, nan: allow, inf: error}") == {
        "missing": {"null": "nan", "nan": "allow", "inf": "error"}
    }


def test_a_key_none_of_a_mapping_is_the_text_null() -> None:
    assert read_document({"missing": {None: "nan"}}) == {"missing": {"null": "nan"}}


def test_json_and_yaml_give_the_same_document(tmp_path: Path) -> None:
    document = {"version": 1, "inputs": {"x": ["a", "b"]}, "flag": True, "none": None, "share": 0.5}
    file = tmp_path / "p.json"
    file.write_text(json.dumps(document, indent="\t"))
    assert read_document(file) == document
    assert read_document(json.dumps(document)) == document


def test_a_file_is_read_by_its_path_as_text_or_path(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9\n")
    assert read_document(file) == read_document(str(file)) == {"a": "é"}


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("a: 1\na: 2", "'a' stands twice", 2),
        ("a: {b: 1, b: 2}", "'b' stands twice", 1),
        ("a: &x [1]\nb: *x", "aliases", 2),
        ("a: !!python/object/apply:os.system [ls]", "tags", 1),
        ("a: !!set {b, c}", "tags", 1),
        ("? [a, b]\n: 1", "a key must be text", 1),
        ("a: [1, 2", "expected", 2),
        ("a: 1\n---\nb: 2", "another document", 2),
        ('{"a": 1, "a": 2}', "'a' stands twice", None),
        ('{"a": NaN}', "NaN is not JSON", None),
        ('{"a": 1,}', "", 1),
    ],
)
def test_text_that_is_no_plain_document_is_refused_with_its_line(text: str, says: str, line: int | None) -> None:
    failure = refusal(text)
    assert failure.code == "SPS-SPEC-FILE"
    assert says in failure.message
    assert line is None or failure.context["line"] == line


@pytest.mark.parametrize("text", ["- a\n- b", "just text", ""])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    assert "Expected a mapping" in refusal(text).message


@pytest.mark.parametrize("levels", [20, 5000])
@pytest.mark.parametrize("pair", ["[]", '{"a":'])
def test_deep_nesting_is_refused_in_yaml_and_json(levels: int, pair: str) -> None:
    opening, closing = pair[:-1] if pair == "[]" else pair, "]" if pair == "[]" else "}"
    text = '{"x": ' + opening * levels + "1" + closing * levels + "}"
    for document in (text, "y: 1\nx: " + opening.replace('"', "").replace(":", ": ") * levels + "1" + closing * levels):
        failure = refusal(document)
        assert failure.code == "SPS-SPEC-FILE"
        assert "20 levels" in failure.message


def test_nineteen_levels_below_the_top_are_read() -> None:
    assert read("x: " + "[" * 19 + "1" + "]" * 19)


def test_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("a: " + "x" * 1024 * 1024)
    with pytest.raises(SpecError, match="1 MiB") as caught:
        read_document(file)
    assert caught.value.code == "SPS-SPEC-FILE"


def test_a_missing_file_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file") as caught:
        read_document(tmp_path / "none.yaml")
    assert str(caught.value.context["file"]).endswith("none.yaml")


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"a: \xff\n")
    with pytest.raises(SpecError, match="UTF-8"):
        read_document(file)


def test_a_variable_is_filled_from_set_then_environment_then_default() -> None:
    text = "a: '${v}'\nb: '${w}'\nc: '${u:-d}'\nd: ${v:-d}"
    assert read(text, {"v": "1"}, {"v": "2", "w": "3"}) == {"a": "1", "b": "3", "c": "d", "d": "1"}


def test_an_empty_variable_takes_the_default() -> None:
    assert read("a: '${v:-x}'\nb: '[${v}]'", env={"v": ""}) == {"a": "x", "b": "[]"}


def test_variables_are_filled_inside_lists_and_texts_but_not_in_keys() -> None:
    assert read("a: [\"day = '${day}'\"]\n'${day}': 1", {"day": "7"}) == {"a": ["day = '7'"], "${day}": 1}


def test_a_doubled_dollar_is_a_literal() -> None:
    assert read("a: '$${v} $5 {x}'") == {"a": "${v} $5 {x}"}


def test_a_variable_in_a_value_is_not_filled_again() -> None:
    assert read("a: '${v}'", {"v": "${w}"}) == {"a": "${w}"}


def test_an_unfilled_variable_says_where_and_how() -> None:
    failure = refusal("a: {b: ['x', '${dya}']}", {"day": "1"})
    assert failure.code == "SPS-SPEC-VARIABLE"
    assert failure.context["at"] == "a.b[1]"
    assert "--set dya=" in failure.fix


@pytest.mark.parametrize("text", ["${}", "${a b}", "${a", "${1a}", "${a.b}"])
def test_a_malformed_variable_is_refused(text: str) -> None:
    assert refusal(f"a: '{text}'").code == "SPS-SPEC-VARIABLE"


def test_set_with_a_dot_overrides_a_key_with_yaml() -> None:
    text = "a: {b: 1}\nc: [{d: 1}]"
    sets = {"a.b": "[x, 2]", "a.e.f": "true", "c.0.d": "no"}
    assert read(text, sets) == {"a": {"b": ["x", 2], "e": {"f": True}}, "c": [{"d": "no"}]}


def test_set_without_a_dot_fills_a_variable_or_overrides_a_top_key() -> None:
    assert read("name: 'f-${name}'\nkeep: keys", {"name": "x", "keep": "[a]"}) == {"name": "f-x", "keep": ["a"]}


def test_an_overridden_key_needs_no_variable() -> None:
    assert read("a: {b: '${v}'}", {"a.b": "1"}) == {"a": {"b": 1}}


@pytest.mark.parametrize("key", ["a.b.c", "l.5", "l.x.y"])
def test_an_override_of_something_that_is_no_mapping_is_refused(key: str) -> None:
    failure = refusal("a: {b: 1}\nl: [1]", {key: "1"})
    assert failure.code == "SPS-SPEC-KEY"
    assert f"--set {key}" in failure.message


def test_an_override_that_is_no_yaml_is_refused_by_name() -> None:
    failure = refusal("a: {b: 1}", {"a.b": "[1"})
    assert failure.code == "SPS-SPEC-FILE"
    assert failure.context["at"] == "--set a.b"


def test_the_callers_mapping_is_left_alone() -> None:
    document = {"a": {"b": [1]}}
    read_document(document, {"a.b": "2"})
    assert document == {"a": {"b": [1]}}


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_code(text: str) -> None:
    with contextlib.suppress(SpecError):
        assert isinstance(read_document(text + "\n", env={}), dict)
