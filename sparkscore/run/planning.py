"""A pipeline and a session become a job: the plan that the ledger keeps, and the scoring plan that workers get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkscore import tables
from sparkscore._version import __version__
from sparkscore.errors import error
from sparkscore.ledger.plans import LEDGER_VERSION, Plan
from sparkscore.run.frames import needed_columns, plan_names, prepared, prepared_schema, scoring_frame
from sparkscore.run.keys import assert_key
from sparkscore.run.lines import check_line
from sparkscore.run.models import model_to_json, pin_model, repin
from sparkscore.run.requests import request_warning
from sparkscore.run.units import MAX_UNITS, pack
from sparkscore.run.weights import Form, choose
from sparkscore.runtime import files
from sparkscore.runtime.binding import Binding, bind
from sparkscore.runtime.loading import read_signature
from sparkscore.runtime.models import PinnedModel
from sparkscore.scoring.scorer import result_schema
from sparkscore.spark.delta_log import newest_version
from sparkscore.spark.failures import mapped
from sparkscore.spark.prepare import where_steps
from sparkscore.spark.rows import rounded_columns
from sparkscore.spark.schemas import arrow_schema, quoted
from sparkscore.spark.sources import Snapshot, pin_source, restore_snapshot
from sparkscore.spark.survey import survey, unfused
from sparkscore.spec.expressions import render
from sparkscore.spec.fingerprint import fingerprint
from sparkscore.spec.pipeline import to_document
from sparkscore.spec.scoring import DROPPED_COL, ERR_COL, POINTER_COL, ScoringPlan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Bound", "assert_same", "assert_sink", "bound", "make_plan", "quarantine_location", "restore", "sink_schema"]

# A Delta table that is read by file-path filter scans its file list again for each unit.
_MAX_FILTERED_UNITS = 8


@dataclass(frozen=True)
class Bound:
    """A pipeline bound to one input and one model: everything but the units."""

    pipeline: Any
    snapshot: Snapshot
    paths: tuple[str, ...]
    model: PinnedModel
    binding: Binding
    weights: Form
    input_ss: bool  # the source has a `_ss` column, which is left out

    @property
    def scoring(self) -> ScoringPlan:
        """The plan that workers get."""
        return self.binding.plan


def bound(spark: SparkSession, pipeline: Any) -> Bound:
    """Pin the input and the model, and bind the pipeline to both. Reads no rows.

    Raises
    ------
    SpecError, ModelError, ClusterError
        Whatever of the pipeline cannot work, before anything is scored.
    """
    _assert_atomic(pipeline)
    assert_key(pipeline)
    snapshot, paths = pin_source(spark, pipeline.source)
    model = pin_model(pipeline)
    form = choose(spark, pipeline.model, model.ref)
    return _bind(spark, pipeline, snapshot, tuple(sorted(paths)), model, form=form)


def make_plan(spark: SparkSession, job: Bound, run_id: str) -> Plan:
    """Look at every input file, check the sink, and cut the input into units.

    Raises
    ------
    ClusterError
        `SPS-ENV-EMPTY` for a source without rows, unless `on_error.allow_empty`.
    """
    pipeline, snapshot = job.pipeline, job.snapshot
    weaker = assert_sink(spark, job)
    looks = survey(spark, snapshot, job.paths, needed_columns(snapshot, pipeline, job.scoring))
    units = pack(looks, _MAX_FILTERED_UNITS if snapshot.route == "delta" else MAX_UNITS)
    if not units and not pipeline.on_error.allow_empty and snapshot.rows is None:
        raise error(
            "SPS-ENV-EMPTY",
            f"Expected rows in {snapshot.name}. Got {looks.num_rows} files without a row.",
            "Check the source and source.where; if an empty input is normal, set on_error.allow_empty: true.",
        )
    basis = _balance_basis(pipeline, snapshot, looks)
    header = {
        "run_id": run_id,
        "ledger_version": LEDGER_VERSION,
        "code_version": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "pipeline_name": pipeline.name,
        "spec_sha256": fingerprint(pipeline),
        "spec": to_document(pipeline),
        "folder": str(pipeline.folder),
        "model": model_to_json(job.model.ref),
        "weights": asdict(job.weights),
        "precision": job.scoring.session.precision,
        "input": snapshot.to_json(),
        "input_ss": job.input_ss,
        "keys": list(job.scoring.keys),
        "where_steps": {str(i): name for i, name in where_steps(pipeline.prepare).items()},
        "sink": pipeline.sink.place,
        "sink_keys": pipeline.sink.model_dump(mode="json", exclude_defaults=True),
        "quarantine": quarantine_location(pipeline),
        "balance_basis": basis,
        "planned_rows": None if basis == "receipt" else sum(u.rows or 0 for u in units),
        "units": len(units),
        "narrowing": list(job.binding.narrowing),
        "warnings": [*job.binding.warnings, *weaker, *request_warning(units, len(set(plan_names(job.scoring))))],
        "sink_weaker": weaker,
        "unfused": unfused(looks),
        "decoder": job.scoring.decoder,
    }
    return Plan(header, units)


def assert_sink(spark: SparkSession, job: Bound) -> list[str]:
    """Refuse a sink that cannot take the rows of this job, before anything is scored for it; give what its kind does
    not promise, as warnings.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`.
    """
    _assert_delta(spark, job.pipeline)
    sink, schema = job.pipeline.sink, sink_schema(spark, job)
    _assert_partitions(sink.partition_by, schema)
    weaker = check_line(spark, sink, schema)
    if job.snapshot.rows is None:  # rows that are not copied yet are looked at once they are
        _assert_replaced(spark, job, schema)
    return weaker


def assert_same(pipeline: Any, plan: Plan) -> None:
    """Refuse to go on with a plan that was made from another pipeline.

    Raises
    ------
    SpecError
        `SPS-RUN-CHANGED`.
    """
    if fingerprint(pipeline) != plan.header["spec_sha256"]:
        raise error(
            "SPS-RUN-CHANGED",
            f"Expected the pipeline that run {plan.run_id} was planned with (fingerprint "
            f"{plan.header['spec_sha256'][:12]}). Got another one ({fingerprint(pipeline)[:12]}).",
            "Start a new run id for the changed pipeline; on_error, quarantine and model.providers alone may change.",
            run=plan.run_id,
        )


def restore(spark: SparkSession, pipeline: Any, plan: Plan) -> Bound:
    """Bind the pipeline to the input, the model and the decoder of images that a plan pinned."""
    _assert_delta(spark, pipeline)
    model = repin(pipeline, plan.header["model"])
    form = Form(**plan.header.get("weights", {"name": "fast"}))  # as the versions ran that had no other
    job = _bind(spark, pipeline, restore_snapshot(plan.header["input"]), (), model, form=form)
    scoring = replace(job.scoring, decoder=plan.header.get("decoder", job.scoring.decoder))
    return replace(job, binding=replace(job.binding, plan=scoring))


def sink_schema(spark: SparkSession, job: Bound) -> pa.Schema:
    """The Arrow schema of the sink: `_ss`, the kept columns, the outputs."""
    frame = scoring_frame(prepared(spark, job.snapshot, job.pipeline), job.scoring)
    scored = result_schema(job.scoring, arrow_schema(frame.schema))
    rows = [f for f in scored if f.name not in (ERR_COL, POINTER_COL)]
    return pa.schema([pa.field("_ss", tables.arrow_struct(tables.SS)), *rows])


def _assert_delta(spark: SparkSession, pipeline: Any) -> None:
    """Refuse a session without Delta, in which quarantine and ledger are told whatever the sink is; a Delta line asks
    its own table.
    """
    if pipeline.sink.is_staged:
        newest_version(spark, quarantine_location(pipeline))


def _assert_partitions(names: Sequence[str], schema: pa.Schema) -> None:
    """Refuse what Delta cannot partition by, which it would say only at the first commit."""
    types = {f.name.lower(): f.type for f in schema}
    for name in names:
        found = types.get(name.lower())
        if found is None or pa.types.is_nested(found) or pa.types.is_binary(found):
            raise error(
                "SPS-SPEC-SINK",
                f"Expected a kept column or an output of a single value. Got {name!r}, which is "
                f"{'not' if found is None else str(found)[:60]}; the sink's columns are {', '.join(schema.names)}.",
                "Name the column in `keep`, or take it out of sink.partition_by.",
                where="sink.partition_by",
            )


def _assert_replaced(spark: SparkSession, job: Bound, schema: pa.Schema) -> None:
    """Refuse rows outside `sink.replace_where`, by the columns that the source gives; Delta judges the others.

    Raises
    ------
    SpecError
        `SPS-SPEC-SINK`.
    """
    from pyspark.errors import AnalysisException

    where = job.pipeline.sink.replace_where
    if where is None:
        return
    frame = scoring_frame(prepared(spark, job.snapshot, job.pipeline), job.scoring)
    if DROPPED_COL in frame.columns:
        frame = frame.where(f"{DROPPED_COL} IS NULL")
    kept = [quoted(c) for c in frame.columns if c in schema.names]
    try:
        outside = frame.selectExpr(*kept).where(f"NOT coalesce({render(where, 'sink.replace_where')}, false)")
    except AnalysisException:
        return  # over outputs, which are not known yet, or over no column at all, which the table says itself
    with mapped(spark, dict(job.pipeline.expressions())):
        found = not outside.isEmpty()
    if found:
        raise error(
            "SPS-SPEC-SINK",
            f"Expected every row inside sink.replace_where: {where}. Got a row outside it; it would stand beside what "
            "is replaced.",
            "Narrow source.where to the same rows, or mend sink.replace_where.",
            where="sink.replace_where",
        )


def quarantine_location(pipeline: Any) -> str:
    """Where bad rows are collected: `quarantine.location`, else inside the ledger."""
    return str(pipeline.quarantine.location or f"{pipeline.ledger.rstrip('/')}/tables/quarantine")


def _bind(
    spark: SparkSession, pipeline: Any, snapshot: Snapshot, paths: tuple[str, ...], model: PinnedModel, *, form: Form
) -> Bound:
    frame = prepared(spark, snapshot, pipeline)
    signature = read_signature(model.folder, model.ref.main)
    binding = bind(pipeline, model, signature, prepared_schema(frame))
    session = replace(binding.plan.session, weights=form.name, gpu_tasks=_gpu_tasks(spark))
    scoring = replace(binding.plan, session=session)
    if not pipeline.keys or pipeline.sink.provenance == "full" or snapshot.only is not None:
        # Without keys the address is the row's only name, so it stands on every row; a replayed row is found by it.
        scoring = replace(scoring, pointers="all")
    binding = replace(binding, plan=scoring)
    if snapshot.format == "jdbc":
        binding = replace(binding, warnings=(*binding.warnings, *_rounded(snapshot, pipeline, binding.plan)))
    input_ss = any(f.name == "_ss" for f in snapshot.struct.fields)
    return Bound(pipeline, snapshot, paths, model, binding, form, input_ss)


def _gpu_tasks(spark: SparkSession) -> int:
    """Say how many tasks Spark gives one GPU to."""
    amount = float(spark.conf.get("spark.task.resource.gpu.amount", "1") or 1)
    return max(1, int(1 / amount)) if amount > 0 else 1


def _rounded(snapshot: Snapshot, pipeline: Any, plan: ScoringPlan) -> list[str]:
    needed = needed_columns(snapshot, pipeline, plan)
    return [
        f"column {name} may lose digits: Spark's decimals have 38, and it guesses where the database declares none; "
        "cast it in options.query"
        for name in rounded_columns(snapshot.struct)
        if name.partition(" (")[0] in needed
    ]


def _assert_atomic(pipeline: Any) -> None:
    """Refuse stores whose atomicity this version does not have: it would lose commits there without a word."""
    places = {"sink": pipeline.sink.location, "quarantine": pipeline.quarantine.location}
    if pipeline.source.has_files:
        places |= {f"source[{i}]": location for i, location in enumerate(pipeline.source.location)}
    for key, place in places.items():
        on_disk = place is None or files.local_path(place) is not None
        if not (on_disk or files.is_s3(place) or files.is_hdfs(place)):
            raise error(
                "SPS-SPEC-LATER",
                f"Expected {key}.location on a local or mounted disk, S3 or HDFS. Got {place}: not in this version.",
                "Give a path that the driver and all workers mount, s3a://bucket/folder or hdfs://host/folder.",
                where=f"{key}.location",
            )


def _balance_basis(pipeline: Any, snapshot: Snapshot, looks: pa.Table) -> str:
    """Say what the planned number of rows rests on."""
    if snapshot.rows is not None:
        return "receipt"
    if (pipeline.source.where is not None and not snapshot.copy) or looks["rows"].null_count:
        return "receipt"
    return "count" if snapshot.route == "delta" or snapshot.format == "binaryFile" else "footer"
