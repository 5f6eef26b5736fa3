"""Every way to score the same rows, each brought to one form: a multiset of (key, outputs, error code)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import sparkscore as ss

KEY = "id"
Rows = Counter  # of (key, outputs as text that no two different values share, error code or None)


@dataclass(frozen=True)
class Case:
    """Rows, a model and how they meet; `table` has a column `id`."""

    table: pa.Table
    model: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    fed: Sequence[str] = ("a", "b", "c")  # the columns that a column function is called with


def local(spark: Any, case: Case, folder: Path) -> Rows:
    del spark, folder
    return _rows(ss.score_local(case.table, case.model, case.inputs, case.outputs, **case.options), case, "err")


def map_in_arrow(spark: Any, case: Case, folder: Path) -> Rows:
    scored = ss.score(_frame(spark, case, folder), case.model, case.inputs, case.outputs, **case.options)
    return _rows(scored.toArrow(), case, "_ss")


def column(form: str, sql: bool) -> Callable[[Any, Case, Path], Rows]:
    """`ss.score_udf`, called from Python, or registered and called from SQL."""

    def score(spark: Any, case: Case, folder: Path) -> Rows:
        from pyspark.sql import functions as F

        frame = _frame(spark, case, folder)
        quoted = ["`" + name.replace("`", "``") + "`" for name in case.fed]
        schema = frame.select(*quoted).schema
        options = {name: value for name, value in case.options.items() if name != "keep"}
        function = ss.score_udf(case.model, case.inputs, case.outputs, schema=schema, form=form, **options)
        assert not function.deterministic
        if sql:
            spark.udf.register("scored", function)
            frame.createOrReplaceTempView("rows")
            found = spark.sql(f"SELECT {KEY}, scored({', '.join(quoted)}) AS s FROM rows")
        else:
            found = frame.select(KEY, function(*(F.col(q) for q in quoted)).alias("s"))
        return _rows(found.select(KEY, "s.*").toArrow(), case, "err")

    return score


def batch(spark: Any, case: Case, folder: Path) -> Rows:
    from tests.run.conftest import delta_rows

    # Bad rows are the point here: no budget, and an input without any row is a success.
    on_error = {"max_fraction": 1.0, "min_ok_rows": 0, "max_consecutive_bad_batches": 1000, "allow_empty": True}
    document = {
        "version": 1,
        "name": "contract",
        "source": {"format": "parquet", "location": _write(case, folder)},
        "model": {"uri": case.model},
        "inputs": case.inputs,
        "outputs": case.outputs,
        "keys": [KEY],
        "sink": {"format": "delta", "location": str(folder / "out")},
        "on_error": on_error,
        **case.options,
    }
    ss.Pipeline.load(document).run(spark, run_id="contract")
    return _rows(delta_rows(folder / "out"), case, "_ss") if (folder / "out").exists() else Counter()


ADAPTERS: dict[str, Callable[[Any, Case, Path], Rows]] = {
    "mapInArrow": map_in_arrow,
    "arrow column": column("arrow", sql=False),
    "arrow column in SQL": column("arrow", sql=True),
    "pandas column": column("pandas", sql=False),
    "pandas column in SQL": column("pandas", sql=True),
    "batch run": batch,
}


def _write(case: Case, folder: Path) -> str:
    """Write the rows as two files with several row groups, once a test."""
    place = folder / "in"
    if not place.exists():
        place.mkdir(parents=True)
        half = (case.table.num_rows + 1) // 2
        for part in range(2 if case.table.num_rows > 1 else 1):
            pq.write_table(case.table.slice(part * half, half), place / f"{part}.parquet", row_group_size=9_000)
    return str(place)


def _frame(spark: Any, case: Case, folder: Path) -> Any:
    return spark.read.parquet(_write(case, folder))


def _rows(table: pa.Table, case: Case, verdict: str) -> Rows:
    found: Rows = Counter()
    for row in table.select([KEY, *case.outputs, verdict]).to_pylist():
        outputs = tuple(repr(row[name]) for name in case.outputs)
        found[row[KEY], outputs, (row[verdict] or {}).get("error_code")] += 1
    return found
