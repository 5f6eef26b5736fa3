"""One resolver of column references: exact, then without case, then fields of structs; never a guess."""

from __future__ import annotations

import pytest

from sparkscore.errors import SpecError
from sparkscore.spec.columns import Field, resolve

PLAIN = (Field("age"), Field("Amount"), Field("tx.id"), Field("we`ird"), Field("s", (Field("x", (Field("y"),)),)))


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("age", ("age",)),
        ("AGE", ("age",)),
        ("amount", ("Amount",)),
        ("tx.id", ("tx.id",)),
        ("TX.ID", ("tx.id",)),
        ("`tx.id`", ("tx.id",)),
        ("s", ("s",)),
        ("s.x", ("s", "x")),
        ("S.X.y", ("s", "x", "y")),
        ("`s`.`x`.y", ("s", "x", "y")),
        ("`we``ird`", ("we`ird",)),
    ],
)
def test_a_reference_finds_its_column_or_field(reference: str, path: tuple[str, ...]) -> None:
    assert resolve(reference, PLAIN) == path


def test_an_exact_name_wins_over_one_that_differs_in_case() -> None:
    assert resolve("a", [Field("A"), Field("a")]) == ("a",)


def refusal(reference: str, *fields: Field) -> SpecError:
    with pytest.raises(SpecError) as caught:
        resolve(reference, fields)
    assert caught.value.code == "SPS-SPEC-COLUMN"
    return caught.value


def test_columns_that_differ_only_in_case_must_be_named_exactly() -> None:
    failure = refusal("ab", Field("AB"), Field("aB"))
    assert "`AB` and `aB`" in failure.message
    assert "exactly" in failure.fix


def test_two_columns_of_one_name_are_ambiguous() -> None:
    assert "`a` and `a`" in refusal("a", Field("a"), Field("a")).message


def test_a_column_and_a_field_of_one_name_need_backticks() -> None:
    both = (Field("a.b"), Field("a", (Field("b"),)))
    failure = refusal("a.b", *both)
    assert "`a.b`" in failure.fix
    assert "`a`.`b`" in failure.fix
    assert resolve("`a.b`", both) == ("a.b",)
    assert resolve("`a`.`b`", both) == ("a", "b")


def test_a_missing_column_lists_near_names() -> None:
    failure = refusal("amuont", *PLAIN)
    assert "Did you mean 'Amount'?" in failure.fix
    assert failure.context["column"] == "amuont"


def test_a_missing_field_lists_near_paths() -> None:
    assert "'s.x'" in refusal("s.z", *PLAIN).fix


def test_a_column_without_near_names_lists_the_columns() -> None:
    assert "age, Amount" in refusal("zzz", *PLAIN).fix


@pytest.mark.parametrize("reference", ["", ".", "a.", "`a", "a`b", "``", "a..b", "`a`b"])
def test_a_reference_that_is_no_name_is_refused(reference: str) -> None:
    refusal(reference, Field("a", (Field("b"),)))


def test_a_name_with_odd_dots_is_found_exactly() -> None:
    assert resolve("a..b", [Field("a..b")]) == ("a..b",)


def test_backticks_never_split_at_the_dot_inside() -> None:
    refusal("`a.b`", Field("a", (Field("b"),)))
