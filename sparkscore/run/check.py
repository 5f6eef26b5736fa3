"""`check`: everything of a pipeline that can be known before a run, on the first 1,000 rows; writes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from sparkscore.errors import CODES
from sparkscore.run.golden import Deviation, golden_rows
from sparkscore.run.inspection import Sample, empty_source, first_rows
from sparkscore.run.planning import Bound, bound, make_plan
from sparkscore.run.scan import advice, choose
from sparkscore.spec.scoring import ERR_COL, InputPlan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["CheckReport", "check_pipeline"]

SAMPLE_ROWS = 1000


@dataclass(frozen=True)
class CheckReport:
    """What `check` found. It exists only for a pipeline that can run; what cannot is an error.

    Attributes
    ----------
    source : str
        What the rows come from; for one without files, why a run copies it first.
    planned_rows : int or None
        Rows of the input; None where the format cannot tell before it is read.
    units : int or None
        Units that a run would have; None where it copies the source first.
    inputs, outputs : dict of str
        Graph input or result column -> type, shape and the columns behind it, as text.
    golden_rows : int or None
        Golden rows that agreed, None when the pipeline names none.
    deviation : Deviation or None
        Of a reduced `precision` from float32 on a CPU, over the golden rows, scored by a worker.
    sample_rows, ok_rows, bad_rows : int
        Of the first 1,000 rows, scored on the driver; `filtered_rows` counts what `prepare` dropped of them.
    bad_by_code : dict of int
        SPS-ROW-… -> rows of the sample.
    bad_fraction : float
        Bad rows of those that `prepare` kept; a forecast, as good as the first rows are typical.
    duplicate_key_rows : int
        Rows of the sample that share their keys with another one.
    scan : str
        Who will read the source, and where it is Spark, why.
    weights : str
        The form that the weights will have in the workers, and why `auto` chose it.
    scan_advice : str
        What that costs, about, and what would change it; empty where it costs nothing.
    """

    pipeline: str
    source: str
    planned_rows: int | None
    units: int | None
    model: dict[str, str]
    provider: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    golden_rows: int | None
    sample_rows: int
    ok_rows: int
    bad_rows: int
    filtered_rows: int
    bad_by_code: dict[str, int]
    bad_fraction: float
    duplicate_key_rows: int
    sink: str
    scan: str
    weights: str
    precision: str = "as_is"
    deviation: Deviation | None = None
    scan_advice: str = ""
    narrowing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return {**asdict(self), "narrowing": list(self.narrowing), "warnings": list(self.warnings)}

    def __str__(self) -> str:
        planned = "an unknown number of" if self.planned_rows is None else f"{self.planned_rows:,}"
        units = "; units are made of its copy" if self.units is None else f" in {self.units} units"
        golden = "none named" if self.golden_rows is None else f"{self.golden_rows} agree"
        filtered = f", {self.filtered_rows:,} dropped by prepare" if self.filtered_rows else ""
        lines = [
            f"pipeline {self.pipeline}: can run",
            f"  source       {self.source}",
            f"               {planned} rows{units}",
            f"  model        {self.model['uri']}",
            f"               version {self.model['version']}, sha256 {self.model['sha256']}",
            f"  provider     {self.provider} (on the driver)",
            f"  scan         {self.scan}",
            *([f"               {self.scan_advice}"] if self.scan_advice else []),
            *([f"  weights      {self.weights}"] if self.weights != "fast" else []),
            *(f"  input        {name}: {text}" for name, text in self.inputs.items()),
            *(f"  output       {name}: {text}" for name, text in self.outputs.items()),
            f"  golden rows  {golden}",
            *([f"  precision    {self.precision}: {self.deviation}"] if self.deviation else []),
            f"  first {self.sample_rows:,} rows: {self.ok_rows:,} ok, {self.bad_rows:,} bad{filtered}",
            *(f"    {code:<18} {rows:,}  {CODES[code].title}" for code, rows in self.bad_by_code.items()),
            f"  sink         {self.sink}",
            *(f"  narrowing    {message}" for message in self.narrowing),
            *(f"  warning      {message}" for message in self.warnings),
        ]
        return "\n".join(lines)


def check_pipeline(spark: SparkSession, pipeline: Any) -> CheckReport:
    """Bind, plan, verify golden rows, and score the first 1,000 rows on the driver.

    Raises
    ------
    SparkscoreError
        The first thing that would stop a run before or at its first unit, with the run's own code.
    """
    job = bound(spark, pipeline)
    plan = make_plan(spark, job, "check")
    golden = golden_rows(spark, job)
    sample = first_rows(spark, job, SAMPLE_ROWS)
    snapshot = job.snapshot
    if snapshot.rows is not None and not sample.given.num_rows and not pipeline.on_error.allow_empty:
        raise empty_source(snapshot.name)
    bad = _by_code(sample)
    rows = sample.given.num_rows
    filtered = sum(sample.counts.rows_filtered.values())
    bad_rows = sum(bad.values())
    fraction = bad_rows / max(1, rows - filtered)
    duplicates = _duplicate_key_rows(sample, job.scoring.keys)
    model, choice = job.model.ref, choose(spark, job, plan)
    return CheckReport(
        pipeline=pipeline.name,
        source=_source_text(job),
        planned_rows=plan.header["planned_rows"],
        units=len(plan.units) if snapshot.rows is None else None,
        model={"uri": model.uri, "version": model.version, "sha256": model.sha256},
        provider=sample.provider,
        inputs={i.name: _input_text(i) for i in job.scoring.inputs},
        outputs={o.column: str(sample.scored.schema.field(o.column).type) for o in job.scoring.outputs},
        golden_rows=None if golden is None else golden.rows,
        precision=job.scoring.session.precision,
        deviation=None if golden is None else golden.deviation,
        sample_rows=rows,
        ok_rows=rows - filtered - bad_rows,
        bad_rows=bad_rows,
        filtered_rows=filtered,
        bad_by_code=bad,
        bad_fraction=fraction,
        duplicate_key_rows=duplicates,
        sink=pipeline.sink.place,
        weights=str(job.weights),
        scan=str(choice),
        scan_advice=advice(job, choice),
        narrowing=job.binding.narrowing,
        warnings=(*plan.header["warnings"], *_warnings(job, sample, fraction, duplicates)),
    )


def _source_text(job: Bound) -> str:
    snapshot = job.snapshot
    if snapshot.rows is not None:
        place = f"{job.pipeline.ledger.rstrip('/')}/inputs"
        return f"{snapshot.name}: {snapshot.rows.reason}, so a run first copies its rows once, to {place}"
    version = "" if snapshot.version is None else f", version {snapshot.version}"
    through = f", through Delta's reader: {snapshot.reason}" if snapshot.route == "delta" else ""
    return f"{snapshot.name}{version}{through}"


def _warnings(job: Bound, sample: Sample, fraction: float, duplicates: int) -> list[str]:
    found = []
    budget, rows = job.pipeline.on_error.max_fraction, sample.given.num_rows
    if fraction > budget:
        found.append(
            f"{fraction:.1%} of the first {rows} rows are bad; a run stops (exit 6) when more than {budget:.1%} of its "
            "rows are: mend the data, or raise on_error.max_fraction"
        )
    if duplicates:
        keys = ", ".join(job.scoring.keys)
        found.append(f"keys are not unique: {duplicates} of the first {rows} rows share {keys} with another row")
    wanted = job.scoring.session.device
    if wanted in ("cuda", "tensorrt") and sample.provider == "CPUExecutionProvider":
        found.append(f"these rows were scored on the driver's CPU; the run will demand {wanted} of every worker")
    return found


def _by_code(sample: Sample) -> dict[str, int]:
    codes = [err["error_code"] for err in sample.scored[ERR_COL].to_pylist() if err is not None]
    return dict(Counter(codes).most_common())


def _duplicate_key_rows(sample: Sample, keys: tuple[str, ...]) -> int:
    if not keys:
        return 0
    groups = sample.given.group_by(list(keys)).aggregate([([], "count_all")])["count_all"]
    return int(pc.sum(groups.filter(pc.greater(groups, 1))).as_py() or 0)


def _input_text(plan: InputPlan) -> str:
    shape = ", ".join(["n", *("?" if d is None else str(d) for d in plan.row_shape)])
    columns = dict.fromkeys(c for part in plan.parts for c in part.columns)
    return f"{plan.dtype} ({shape}) from {', '.join(columns)}"
