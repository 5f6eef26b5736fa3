"""The `prepare` steps of a pipeline, compiled onto a frame so that dropped rows stay countable.

A `where` does not filter: it sets the helper column `_ss_dropped` to the index of the step, and the scorer drops and
counts the row. A filter that Catalyst pushes into the scan could not be counted without a second scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sparkscore.errors import error
from sparkscore.spark.schemas import fields, quoted, selected
from sparkscore.spec.columns import resolve
from sparkscore.spec.expressions import needed_names, render
from sparkscore.spec.scoring import CORRUPT_COL, DROPPED_COL, HELPER_COLS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["apply_steps", "apply_where", "where_steps"]


def apply_where(frame: DataFrame, where: str | None) -> DataFrame:
    """Apply `source.where`, which defines what the input is; a malformed line is never filtered away."""
    if where is None:
        return frame
    predicate = _rendered(frame, where, "source.where")
    if CORRUPT_COL in frame.columns:
        predicate = f"({predicate}) OR {CORRUPT_COL} IS NOT NULL"
    return _analysed(frame, "source.where", where, lambda: frame.where(predicate))


def apply_steps(frame: DataFrame, steps: Sequence[Any]) -> DataFrame:
    """Apply the steps in order. Expressions after a `where` are guarded by it, row by row."""
    for index, step in enumerate(steps):
        where = f"prepare[{index}].{step.kind}"
        if step.kind == "with":
            for name, text in step.with_.items():
                frame = _with(frame, name, text, f"{where}.{name}")
        elif step.kind == "where":
            frame = _mark(frame, index, step.where, where)
        else:
            frame = _select(frame, step)
    return frame


def where_steps(steps: Sequence[Any]) -> dict[int, str]:
    """Name the steps that drop rows: index -> the name that counts are kept under."""
    return {i: f"prepare[{i}]: {step.where}" for i, step in enumerate(steps) if step.kind == "where"}


def _with(frame: DataFrame, name: str, text: str, where: str) -> DataFrame:
    from pyspark.sql import functions as F

    expression = F.expr(_rendered(frame, text, where))
    if DROPPED_COL in frame.columns:
        expression = F.when(F.col(DROPPED_COL).isNull(), expression)
    return _analysed(frame, where, text, lambda: frame.withColumn(name, expression))


def _mark(frame: DataFrame, index: int, text: str, where: str) -> DataFrame:
    from pyspark.sql import functions as F

    predicate = f"coalesce({_rendered(frame, text, where)}, false)"
    if CORRUPT_COL in frame.columns:
        predicate = f"({predicate}) OR {CORRUPT_COL} IS NOT NULL"
    before = F.col(DROPPED_COL) if DROPPED_COL in frame.columns else F.lit(None).cast("int")
    marker = F.when(before.isNotNull(), before).when(~F.expr(predicate), F.lit(index))
    return _analysed(frame, where, text, lambda: frame.withColumn(DROPPED_COL, marker.cast("int")))


def _select(frame: DataFrame, step: Any) -> DataFrame:
    available = fields(frame.schema)
    helpers = [h for h in HELPER_COLS if h in frame.columns]
    if step.kind == "select":
        return frame.selectExpr(*(selected(resolve(r, available), r) for r in step.select), *helpers)
    if step.kind == "rename":
        new = {resolve(old, available)[0]: name for old, name in step.rename.items()}
        return frame.selectExpr(*(selected((c,), new.get(c, c)) for c in frame.columns))
    dropped = {resolve(r, available)[0] for r in step.drop}
    return frame.selectExpr(*(selected((c,)) for c in frame.columns if c not in dropped))


def _rendered(frame: DataFrame, text: str, where: str) -> str:
    """Write an expression for Spark; a name that it would take for a function of the clock or the user is a column."""
    rendered = render(text, where)
    missing = sorted(needed_names(rendered) - {c.lower() for c in frame.columns})
    if missing:
        columns = _listed([quoted(c) for c in frame.columns if c not in HELPER_COLS])
        raise error(
            "SPS-SPEC-COLUMN",
            f"Expected an expression over the columns {columns}. Got `{text}` with {', '.join(missing)}.",
            f"Mend {where}: what depends on the clock or the user is not let through; give it as a ${{variable}}.",
            where=where,
        )
    return rendered


def _listed(names: list[str], most: int = 30) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _analysed(frame: DataFrame, where: str, text: str, make: Callable[[], DataFrame]) -> DataFrame:
    """Build a frame, and give Spark's refusal of an expression as an error of the pipeline file."""
    from pyspark.errors import AnalysisException, ParseException

    try:
        return make()
    except (AnalysisException, ParseException) as cause:
        # Spark's suggestions may be helper columns of ours; the caller's own stand in our text.
        first = str(cause).strip().splitlines()[0].split(" Did you mean", 1)[0].rstrip(". ")
        columns = _listed([quoted(c) for c in frame.columns if c not in HELPER_COLS])
        raise error(
            "SPS-SPEC-COLUMN" if "UNRESOLVED_COLUMN" in first else "SPS-SPEC-EXPRESSION",
            f"Expected an expression over the columns {columns}. Got `{text}`: {first}.",
            f"Mend {where}.",
            where=where,
        ) from cause
