"""Golden rows: a model's own answers to known rows, compared with what it answers here, before anything is scored.

Under a reduced precision they also tell how far that is from float32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore.errors import SparkscoreError, error
from sparkscore.run.frames import prepared
from sparkscore.run.inspection import driver_scorer
from sparkscore.run.planning import Bound
from sparkscore.runtime import files
from sparkscore.scoring.scorer import result_schema
from sparkscore.scoring.verdicts import ERR_TYPE
from sparkscore.spark.carriers import FrameTask, RowsTask
from sparkscore.spark.failures import mapped
from sparkscore.spark.schemas import flat_schema, spark_schema
from sparkscore.spark.sessions import hand_out
from sparkscore.spark.udfs import rows_frame
from sparkscore.spec.fields import located
from sparkscore.spec.scoring import ERR_COL, ScoringPlan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Agreement", "Deviation", "deviation", "golden_rows", "scored_by_worker"]

_FORM = '{"rows": [{"a": 1.0}], "outputs": {"p": [0.5]}, "rtol": 1e-4, "atol": 1e-6}'


@dataclass(frozen=True)
class Deviation:
    """How far the answers of a precision are from those of float32 on a CPU, at most, over all outputs.

    `relative` is of answers other than zero. `unequal` counts the values that differ and have no difference, because
    one of the two is NaN, infinite or no number, such as a label.
    """

    absolute: float
    relative: float
    unequal: int

    def __str__(self) -> str:
        unequal = f"; {self.unequal} other values differ" if self.unequal else ""
        return f"at most {self.absolute:.3g} ({self.relative:.3g} of an answer) from float32 on a CPU{unequal}"


@dataclass(frozen=True)
class Agreement:
    """How many golden rows agree, the largest difference among them, and that of a reduced precision to float32."""

    rows: int
    worst: float
    deviation: Deviation | None = None


@dataclass(frozen=True)
class _Golden:
    place: str
    rows: list[dict[str, Any]]
    outputs: dict[str, list[Any]]
    rtol: float
    atol: float


def golden_rows(spark: SparkSession, job: Bound) -> Agreement | None:
    """Score `model.golden` and hold the answers against the expected ones; None when there is no file.

    The driver scores them; under a reduced precision a worker does, since that is where the precision's GPU is, and
    once more in float32 on its CPU.

    The file is JSON: `rows` give the columns that the model is fed with (as after `prepare`), `outputs` an expected
    value per row for some or all result columns. Numbers agree when ``|got - expected| <= atol + rtol * |expected|``
    (defaults 1e-6 and 1e-4) and NaN agrees with NaN; anything else must be equal.

    Raises
    ------
    ModelError
        `SPS-MODEL-GOLDEN`, naming the row that is furthest off, or why the file cannot be used.
    ClusterError
        `SPS-ENV-PROVIDER`: the worker does not have the device of the precision.
    """
    if job.pipeline.model.golden is None:
        return None
    golden = _read(located(job.pipeline.model.golden, job.pipeline.folder))
    plan = replace(job.scoring, keep=(), keys=(), pointers="errors", payload="none", prove_batch=False)
    table = _table(golden, flat_schema(prepared(spark, job.snapshot, job.pipeline).schema, plan.columns))
    if plan.session.precision == "as_is":
        scored = driver_scorer(job, plan).score(table.to_batches())
        return _compared(golden, pa.Table.from_batches(scored, schema=result_schema(plan, table.schema)))
    with mapped(spark):
        plan = replace(plan, model=hand_out(spark, plan.model, job.model.folder))
        got = scored_by_worker(spark, plan, table)
        agreement = _compared(golden, got)
        exact = replace(plan, session=replace(plan.session, device="cpu", precision="as_is"))
        return replace(agreement, deviation=deviation(got, scored_by_worker(spark, exact, table)))


def scored_by_worker(spark: SparkSession, plan: ScoringPlan, rows: pa.Table) -> pa.Table:
    """Score rows in one Spark task, in their order."""
    result = spark_schema(result_schema(plan, rows.schema))
    return rows_frame(spark, RowsTask(rows, FrameTask(plan, ERR_TYPE)), result).toArrow()


def deviation(got: pa.Table, exact: pa.Table) -> Deviation:
    """Measure how far results are from others of the same rows; a row's error counts as a value."""
    absolute = relative = 0.0
    unequal = 0
    for column in exact.schema.names:
        for want, have in _leaves(exact[column].to_pylist(), got[column].to_pylist()):
            difference = _difference(want, have)
            if math.isinf(difference):
                unequal += 1
            else:
                absolute = max(absolute, difference)
                relative = max(relative, difference / abs(want) if difference and want else 0.0)
    return Deviation(absolute, relative, unequal)


def _read(place: str) -> _Golden:
    try:
        text = json.loads(files.read_bytes(place))
        rows, outputs = list(text["rows"]), {k: list(v) for k, v in text["outputs"].items()}
        rtol, atol = float(text.get("rtol", 1e-4)), float(text.get("atol", 1e-6))
    except FileNotFoundError as cause:
        raise _unusable(place, "no such file") from cause
    except (ValueError, TypeError, KeyError, AttributeError) as cause:
        raise _unusable(place, f"{type(cause).__name__}: {cause}") from cause
    if not rows or not outputs or any(len(v) != len(rows) for v in outputs.values()):
        raise _unusable(place, f"{len(rows)} rows and { ({k: len(v) for k, v in outputs.items()}) } expected values")
    return _Golden(place, rows, outputs, rtol, atol)


def _table(golden: _Golden, schema: pa.Schema) -> pa.Table:
    try:
        unknown = sorted({name for row in golden.rows for name in row} - set(schema.names))
        if unknown:
            raise _unusable(golden.place, f"columns that the model is not fed with: {', '.join(unknown)}")
        return pa.table([_column([row.get(f.name) for row in golden.rows], f.type) for f in schema], schema=schema)
    except (pa.ArrowException, TypeError, AttributeError) as cause:
        raise _unusable(golden.place, str(cause)) from cause


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(kind):  # JSON has no decimals
        return pa.array(values).cast(kind)
    return pa.array(values, kind)


def _compared(golden: _Golden, got: pa.Table) -> Agreement:
    refused = [(i, err) for i, err in enumerate(got[ERR_COL].to_pylist()) if err is not None]
    if refused:
        row, err = refused[0]
        raise _differs(golden, f"a score for row {row}", f"{err['error_code']}: {err['error_message']}")
    missing = sorted(set(golden.outputs) - set(got.schema.names))
    if missing:
        raise _unusable(golden.place, f"outputs that the pipeline does not have: {', '.join(missing)}")
    differences = list(_differences(golden, got))
    off = [d for d in differences if d[0] > 1]
    if off:
        _, row, column, want, have, difference = max(off, key=lambda d: d[0])
        by = f" (difference {difference:.3g}, allowed {golden.atol:g} + {golden.rtol:g} x expected)"
        more = f"; {len({d[1] for d in off})} of {len(golden.rows)} rows differ"
        raise _differs(golden, f"{column} = {want!r} for row {row}", f"{have!r}{by}{more}")
    return Agreement(len(golden.rows), max((d[5] for d in differences), default=0.0))


def _differences(golden: _Golden, got: pa.Table) -> Iterator[tuple[float, int, str, Any, Any, float]]:
    """Yield (difference over what is allowed, row, column, expected, got, difference), one for each number."""
    for column, expected in golden.outputs.items():
        for row, (want, have) in enumerate(zip(expected, got[column].to_pylist(), strict=True)):
            for a, b in _leaves(want, have):
                difference = _difference(a, b)
                allowed = golden.atol + golden.rtol * abs(a) if _is_number(a) and math.isfinite(a) else 0.0
                yield (_ratio(difference, allowed), row, column, a, b, difference)


def _leaves(want: Any, have: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        pairs: Iterable[tuple[Any, Any]] = zip(want, have, strict=True)
    elif isinstance(want, Mapping) and isinstance(have, Mapping) and want.keys() == have.keys():
        pairs = ((want[k], have[k]) for k in want)
    else:
        yield want, have
        return
    for a, b in pairs:
        yield from _leaves(a, b)


def _difference(want: Any, have: Any) -> float:
    if not (_is_number(want) and _is_number(have)):
        return 0.0 if want == have else math.inf
    if want == have or (math.isnan(want) and math.isnan(have)):
        return 0.0
    difference = abs(float(want) - float(have))
    return math.inf if math.isnan(difference) else difference


def _ratio(difference: float, allowed: float) -> float:
    if difference == 0:
        return 0.0
    return difference / allowed if allowed > 0 else math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _differs(golden: _Golden, expected: str, got: str) -> SparkscoreError:
    return error(
        "SPS-MODEL-GOLDEN",
        f"Expected {expected}. Got {got}.",
        "Score with the model that the golden rows were made from; if the change is wanted, write them anew.",
        file=golden.place,
    )


def _unusable(place: str, got: str) -> SparkscoreError:
    return error("SPS-MODEL-GOLDEN", f"Expected golden rows. Got {got}.", f"Write them as {_FORM}.", file=place)
