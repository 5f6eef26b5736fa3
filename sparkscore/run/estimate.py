"""`estimate`: what a run would take, from a probe of at most a minute; nothing of it reaches the sink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sparkscore.errors import error
from sparkscore.ledger.plans import Plan
from sparkscore.ledger.store import open_store
from sparkscore.run.calibration import Calibration, Forecast, forecast, key_of, read_calibration, write_calibration
from sparkscore.run.inspection import empty_source
from sparkscore.run.limits import usd_of
from sparkscore.run.planning import Bound, bound, make_plan
from sparkscore.run.probe import probe
from sparkscore.run.scan import choose, cores_of, task_sizes
from sparkscore.spark.failures import mapped
from sparkscore.spark.machine import machine_name
from sparkscore.spec.limits import Limits, Prices

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Estimate", "estimate_pipeline", "priced"]


@dataclass(frozen=True)
class Estimate:
    """What a run would take on this session.

    Attributes
    ----------
    rows, units, files, input_bytes : int
        Of the pinned input; rows as planned, or guessed where only reading tells.
    scan, provider, machine, cores : str, int
        How it was measured.
    calibrated_at : str
        UTC, when the probe ended; `is_reused` tells whether that was an earlier estimate.
    ns_row, ns_row_p95 : float
        Nanoseconds of one core for a row, from Spark's scan to the sink.
    model_fraction : float
        The part of that in the model itself.
    cold_start_s, fixed_s, unit_overhead_s : float
        Seconds of the first unit beyond a warm one; of a run beside its units; of a unit beside its tasks.
    hours, hours_p95 : float
        From claim to end.
    limited_by : str
        What most of the time goes to.
    usd, usd_p95 : float or None
        By the prices given, None without.
    requests : float
        To the object store.
    output_bytes : float
        In the sink.
    bad_rows, bad_rows_p5, bad_rows_p95 : float
        Rows that go to the quarantine.
    """

    pipeline: str
    rows: int
    units: int
    files: int
    input_bytes: int
    scan: str
    provider: str
    machine: str
    cores: int
    calibrated_at: str
    is_reused: bool
    ns_row: float
    ns_row_p95: float
    model_fraction: float
    cold_start_s: float
    fixed_s: float
    unit_overhead_s: float
    hours: float
    hours_p95: float
    limited_by: str
    usd: float | None
    usd_p95: float | None
    requests: float
    output_bytes: float
    bad_rows: float
    bad_rows_p5: float
    bad_rows_p95: float
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the estimate as plain JSON values."""
        return {**asdict(self), "warnings": list(self.warnings)}

    def __str__(self) -> str:
        when = f"probe of {self.calibrated_at}" if self.is_reused else "probe just now"
        cost = "" if self.usd is None else f", {self.usd:,.4g} USD (p95 {self.usd_p95:,.4g})"
        lines = [
            f"pipeline {self.pipeline}: about {_duration(self.hours)} (p95 {_duration(self.hours_p95)}){cost}",
            f"  input        {self.rows:,} rows, {_bytes(self.input_bytes)}, {self.files:,} files, {self.units} units",
            f"  measured     {when}, {self.provider} on {self.machine}, {self.scan}, {self.cores} cores",
            f"  row          {self.ns_row:,.0f} ns of a core (p95 {self.ns_row_p95:,.0f}), "
            f"{self.model_fraction:.0%} of it in the model",
            f"  unit         {self.unit_overhead_s:.2f} s beside its rows",
            f"  run          {self.fixed_s:.1f} s beside its units; {self.cold_start_s:.1f} s of it is the cold start",
            f"  limited by   {self.limited_by}",
            f"  output       {_bytes(self.output_bytes)}, {self.output_bytes / max(1, self.rows):,.1f} bytes a row",
            f"  bad rows     about {self.bad_rows:,.0f} ({self.bad_rows_p5:,.0f} to {self.bad_rows_p95:,.0f})",
            *([f"  requests     about {self.requests:,.0f}"] if self.requests else []),
            *(f"  warning      {message}" for message in self.warnings),
        ]
        return "\n".join(lines)


def estimate_pipeline(
    spark: SparkSession,
    pipeline: Any,
    prices: Prices | None = None,
    *,
    recalibrate: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Estimate:
    """Plan a run, probe it unless the ledger knows this model, machine and kind of input, and predict what it takes.

    Raises
    ------
    SparkscoreError
        What would stop a run at its plan or its first units; `SPS-SPEC-VALUE` for a source without files, which a run
        copies first.
    """
    job = bound(spark, pipeline)
    if job.snapshot.rows is not None:
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected a source with files, to read a part of. Got {job.snapshot.name}, which a run copies first.",
            "Estimate a pipeline over files of the same rows; `sparkscore check` scores the first 1,000 of them.",
            at="source",
        )
    plan, store = make_plan(spark, job, "estimate"), open_store(pipeline.ledger)
    if not plan.units:
        raise empty_source(job.snapshot.name)
    with mapped(spark, dict(pipeline.expressions())):
        sizes, machine = task_sizes(spark, cores_of(spark)), machine_name(spark)
        scan = choose(spark, job, plan)
        key = key_of(job, scan.name, machine)
        known = None if recalibrate else read_calibration(store, key)
        if known is None:
            say("probing: three pieces of the input, at most a minute")
    found = known or probe(spark, job, plan, sizes, machine)
    if known is None:
        write_calibration(store, key, found)
    told = forecast(plan.units, found, sizes, job)
    cost = _cost(told, prices or pipeline.limits.prices, sizes.cores)
    about = {"is_reused": known is not None, "scan": str(scan), "cores": sizes.cores, **cost}
    warnings = (*plan.header["warnings"], *_warnings(job, plan, found), *_over(pipeline.limits, told, cost["usd"]))
    return _estimate(job, plan, found, told, {**about, "warnings": warnings})


def priced(given: Mapping[str, Any]) -> Prices:
    """Read prices.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` for a name that is none of theirs, or for what is no price.
    """
    try:
        return Prices.model_validate(dict(given))
    except ValueError as refusal:
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected USD by {', '.join(Prices.known_keys())}, each 0 or more. Got {dict(given)}.",
            "Write, for example, --price core_hour=0.05.",
        ) from refusal


def _cost(told: Forecast, prices: Prices | None, cores: int) -> dict[str, float | None]:
    hours = {"usd": told.hours, "usd_p95": told.hours_p95}
    return {name: None if prices is None else usd_of(prices, h, cores, told.requests) for name, h in hours.items()}


def _estimate(job: Bound, plan: Plan, found: Calibration, told: Forecast, about: dict[str, Any]) -> Estimate:
    low, middle, high = found.bad_fraction(0.05, 0.5, 0.95)
    # None bad of n: at most 3 / n of all are, in 19 of 20 cases (Hanley and Lippman-Hand, JAMA 249, 1983).
    high = max(high, 3 / max(3, sum(piece.rows for piece in found.pieces)))
    return Estimate(
        pipeline=job.pipeline.name,
        rows=round(told.rows),
        units=len(plan.units),
        files=sum(len(unit.files) for unit in plan.units),
        input_bytes=sum(unit.files.size_bytes for unit in plan.units),
        provider=found.provider,
        machine=found.machine,
        calibrated_at=found.at,
        ns_row=told.ns_row,
        ns_row_p95=told.ns_row_p95,
        model_fraction=found.model_fraction,
        cold_start_s=found.cold_start_s,
        fixed_s=found.fixed_s,
        unit_overhead_s=found.overhead_s,
        hours=told.hours,
        hours_p95=told.hours_p95,
        limited_by=told.limited_by,
        requests=told.requests,
        output_bytes=told.rows * found.output_bytes_per_row,
        bad_rows=told.rows * middle,
        bad_rows_p5=told.rows * low,
        bad_rows_p95=told.rows * high,
        **about,
    )


def _warnings(job: Bound, plan: Plan, found: Calibration) -> list[str]:
    told = []
    if plan.header["planned_rows"] is None and not any(piece.is_whole for piece in found.pieces):
        told.append("only reading tells the number of rows: it is guessed, and bad rows and output with it")
    if job.pipeline.sink.is_foreign:
        told.append(f"the probe wrote Parquet files: how fast {job.pipeline.sink.format} takes rows is not known")
    return told


def _over(limits: Limits, told: Forecast, usd: float | None) -> list[str]:
    """Say which limits would stop the run before its end."""
    takes = {"hours": told.hours, "usd": usd, "rows": told.rows}
    known = {name: (getattr(limits, name), value) for name, value in takes.items() if value is not None}
    return [
        f"limits.{name} {limit:g} would stop the run before its end: about {value:,.4g}"
        for name, (limit, value) in known.items()
        if limit is not None and value > limit
    ]


def _duration(hours: float) -> str:
    return f"{hours:,.2f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"


def _bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:,.4g} {unit}"
        number /= 1000
    return f"{number:,.4g} PB"
