"""Which of the source's own columns a run needs: those that it names, and no column that `prepare` makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql.types import DoubleType, StructType

from sparkscore.run.frames import needed_columns
from sparkscore.run.pipeline import Pipeline


@pytest.mark.parametrize(
    ("prepare", "fed", "needed"),
    [
        ([], "b", ["b"]),
        ([], "B", ["b"]),
        ([{"with": {"b2": "b + 1"}}, {"rename": {"b2": "b3"}}], "b3", ["b"]),
        ([{"rename": {"S.x": "y"}}], "y", ["s"]),
        ([{"where": "c > 0"}], "b", ["b", "c"]),
    ],
    ids=str,
)
def test_the_columns_that_a_run_needs(document: Any, prepare: list[Any], fed: str, needed: list[str]) -> None:
    columns = StructType()
    for name in ("a", "b", "c"):
        columns.add(name, DoubleType())
    columns.add("s", StructType().add("x", DoubleType()))
    made = Pipeline.load(document(prepare=prepare, inputs={"x": [fed]}, keys=[])).spec
    plan: Any = SimpleNamespace(columns=(fed,), keep=(), keys=())
    snapshot: Any = SimpleNamespace(struct=columns)
    assert needed_columns(snapshot, made, plan) == needed
