"""Scoring without a pipeline file: a Spark frame, a pandas-UDF column, or an Arrow table in; scores out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.run.frames import plan_names, scoring_frame
from sparkscore.run.models import encoder_files
from sparkscore.runtime.binding import bind
from sparkscore.runtime.cache import manifest_sha256
from sparkscore.runtime.loading import Signature, TensorInfo, read_signature
from sparkscore.runtime.models import PinnedModel, pin
from sparkscore.scoring.projection import projected, projected_schema
from sparkscore.scoring.scorer import open_scorer, result_schema
from sparkscore.scoring.verdicts import ERR_TYPE
from sparkscore.spec.fields import located
from sparkscore.spec.pipeline import load_pipeline
from sparkscore.spec.scoring import ERR_COL, ScoringPlan

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["Model", "load", "score", "score_local", "score_udf"]

# What `_ss` holds outside a run: the fields that speak of the row alone.
_FRAME_FIELDS = ("stage", "error_code", "error_class", "error_type", "error_message")
_OPTIONS = ("missing", "keys", "keep", "on_error", "quarantine")
_MODEL_OPTIONS = ("device", "batch_size", "weights", "providers", "allow_links")
# What counts outside a run; the other keys judge a whole run, or say where its tables are.
_COUNTS = {
    "on_error": (
        *("policy", "max_consecutive_bad_batches", "batch_timeout_s", "load_timeout_s"),
        *("guard", "max_guard_deaths"),
    ),
    "quarantine": ("payload", "deny"),
}


@dataclass(frozen=True)
class Model:
    """A model pinned to a version and to bytes. Made by `load`; hand it to `score`, `score_udf` or `score_local`."""

    uri: str
    version: str
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    pinned_uri: str  # `uri` with the version in place of an alias, and as an absolute path


def load(uri: str, *, allow_links: bool = False) -> Model:
    """Resolve a model URI once, to a version and a sha256, and keep a verified copy on this machine.

    Parameters
    ----------
    uri : str
        ``models:/name@alias``, ``runs:/id/path``, ``s3://…``, ``hdfs://…``, ``dbfs:/…``, or a path of an ONNX file,
        a folder with one, or an MLflow package with an ONNX flavour.
    allow_links : bool
        Follow symbolic links that leave the model's folder.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        `SPS-MODEL-MISSING`, `-FORMAT`, `-EXTERNAL`, `-LINK`.
    """
    pinned = pin(uri, allow_links=allow_links)
    signature = read_signature(pinned.folder, pinned.ref.main)
    place = pinned.ref.location
    pinned_uri = place.removeprefix("artifact:") if place.startswith("artifact:") else located(uri, Path.cwd())
    return Model(uri, pinned.ref.version, pinned.ref.sha256, signature.inputs, signature.outputs, pinned_uri)


def score(
    df: DataFrame,
    model: Model | str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    **options: Any,
) -> DataFrame:
    """Score a Spark DataFrame; give it back with the outputs and an `_ss` struct as new columns.

    The frame is **lazy**: each action on it scores the rows again. Write it once and read it back. A filter or a
    projection on it adds no model call. A bad row stays in the frame, with null outputs and its error in `_ss`.

    Parameters
    ----------
    df : DataFrame
        Any, classic or Spark Connect.
    model : Model or str
        What `load` gave, or a URI.
    inputs, outputs : mapping
        As `inputs` and `outputs` of the pipeline file: ``{"x": ["amount", "age"]}``,
        ``{"p": "probabilities[:, 1]"}``.
    **options
        `missing`, `keys`, `keep` (default all columns), `device`, `batch_size`, `weights` (`auto` is `fast`
        here), `providers`, `allow_links`, `quarantine` (its `payload` and `deny`), and `on_error`: `policy`,
        `batch_timeout_s`, `load_timeout_s`, `guard`, `max_guard_deaths`, and `max_consecutive_bad_batches`, which has
        no default here. Its other keys judge a run and are refused.

    Returns
    -------
    DataFrame
        Kept columns, outputs, ``_ss struct<status, stage, error_code, error_class, error_type, error_message>``.

    Raises
    ------
    SpecError, ModelError
        At once, before any row is read.

    Examples
    --------
    >>> scored = score(df, "models:/fraud@champion", {"x": ["amount", "age"]})  # doctest: +SKIP
    """
    from sparkscore.run.frames import prepared_schema
    from sparkscore.spark.carriers import FrameTask
    from sparkscore.spark.commit import ss_sql
    from sparkscore.spark.schemas import arrow_schema, spark_schema
    from sparkscore.spark.sessions import hand_out
    from sparkscore.spark.udfs import map_in_arrow

    pinned, plan = _bound(model, inputs, outputs, prepared_schema(df), {"keep": "all", **options})
    plan = replace(plan, model=hand_out(df.sparkSession, pinned.ref, pinned.folder))
    frame = scoring_frame(df, plan)
    schema = result_schema(plan, arrow_schema(frame.schema))
    shown = pa.struct([ERR_TYPE.field(name) for name in _FRAME_FIELDS])
    schema = schema.set(schema.get_field_index(ERR_COL), pa.field(ERR_COL, shown))
    scored = map_in_arrow(frame, FrameTask(plan, shown), spark_schema(schema))
    return scored.selectExpr("*", f"{ss_sql([ERR_COL], _FRAME_FIELDS, {})} AS _ss").drop(ERR_COL)


def score_local(
    table: pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch],
    model: Model | str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    **options: Any,
) -> pa.Table:
    """Score an Arrow table in this process, without Spark; the same scorer, the same bytes.

    Parameters are those of `score`; no task is tried again here, so only ``guard: always`` guards. The result has the
    kept columns, the outputs, and `err`: null for a good row, else a struct of `sparkscore.tables.ERR`.
    """
    from sparkscore.spark.schemas import paths

    schema, batches = _batches(table)
    _, plan = _bound(model, inputs, outputs, schema, {"keep": "all", **options})
    named = paths(schema, plan_names(plan))
    scored = open_scorer(plan).score(projected(batch, named) for batch in batches)
    return pa.Table.from_batches(scored, schema=result_schema(plan, projected_schema(schema, named)))


def score_udf(
    model: Model | str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    *,
    schema: Any,
    form: Literal["auto", "arrow", "pandas"] = "auto",
    **options: Any,
) -> Any:
    """Make a column function that scores; for SQL, and for wide tables whose other columns stay out of Python.

    Register it with ``spark.udf.register("p_late", score_udf(…))`` and call it with the columns of `schema`, in that
    order. It is marked non-deterministic, so that Spark does not copy the call; a filter on its result still runs
    the model twice: write once, read back.

    Parameters
    ----------
    model, inputs, outputs, **options
        As in `score`.
    schema : str or StructType
        Names and types of the columns that the function is called with, e.g. ``"amount double, age int"``.
    form : {"auto", "arrow", "pandas"}
        An iterator pandas UDF, or the Arrow UDF that Spark >= 4.1 has; auto takes the latter where it exists.
        pandas knows no null beside NaN, so there a NaN counts as null.

    Returns
    -------
    callable
        Columns in; a struct of the outputs and `err` out.
    """
    from sparkscore.spark.carriers import ColumnTask
    from sparkscore.spark.schemas import arrow_schema, paths, spark_schema, struct_of
    from sparkscore.spark.sessions import hand_out
    from sparkscore.spark.udfs import column_function

    given = arrow_schema(struct_of(schema) if isinstance(schema, str) else schema)
    pinned, plan = _bound(model, inputs, outputs, given, {"keep": [], **options})
    plan = replace(plan, model=hand_out(None, pinned.ref, pinned.folder))
    named = paths(given, plan_names(plan))
    result = spark_schema(result_schema(plan, projected_schema(given, named)))
    return column_function(ColumnTask(plan, given, named), result, form)


def _batches(table: pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch]) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    """Give rows as batches with their schema, which an empty table has too; an iterator is not read ahead."""
    if isinstance(table, pa.Table | pa.RecordBatch):
        return table.schema, table.to_batches() if isinstance(table, pa.Table) else [table]
    batches = iter(table)
    first = next(batches, None)
    if first is None:
        raise error("SPS-ENV-EMPTY", "Expected rows to score. Got none.", "Give one batch or more, if empty.")
    return first.schema, chain([first], batches)


def _bound(
    model: Model | str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None,
    schema: pa.Schema,
    options: Mapping[str, Any],
) -> tuple[PinnedModel, ScoringPlan]:
    """Bind a call as if it were a pipeline whose source and sink are the caller's own frames."""
    unknown = sorted(set(options) - set(_OPTIONS) - set(_MODEL_OPTIONS))
    if unknown:
        raise error(
            "SPS-SPEC-KEY",
            f"Expected options among {', '.join((*_OPTIONS, *_MODEL_OPTIONS))}. Got {', '.join(unknown)}.",
            "Take them out, or write a pipeline file.",
        )
    _assert_counting(options)
    uri = model if isinstance(model, str) else model.pinned_uri
    document: dict[str, Any] = {
        "version": 1,
        "name": "score",
        "source": {"format": "parquet", "location": "frame"},
        "model": {"uri": uri, **{k: v for k, v in options.items() if k in _MODEL_OPTIONS}},
        "inputs": dict(inputs),
        "sink": {"format": "delta", "location": "frame"},
        **{k: v for k, v in options.items() if k in _OPTIONS},
    }
    if outputs is not None:
        document["outputs"] = dict(outputs)
    pipeline = load_pipeline(document)
    pinned = pin(uri, encoder_files=encoder_files(pipeline), allow_links=pipeline.model.allow_links)
    # The files of encoders, which alone have a source of their own, belong to the call and not to what was loaded.
    if isinstance(model, Model) and manifest_sha256([f for f in pinned.ref.files if not f.source]) != model.sha256:
        raise error(
            "SPS-MODEL-DIGEST",
            f"Expected the model that was loaded ({model.sha256[:12]}). Got other bytes at {uri}.",
            "Load the model again.",
        )
    signature: Signature = read_signature(pinned.folder, pinned.ref.main)
    plan = bind(pipeline, pinned, signature, schema).plan
    if "max_consecutive_bad_batches" not in (options.get("on_error") or {}):
        plan = replace(plan, on_error=replace(plan.on_error, max_consecutive_bad_batches=None))
    return pinned, plan


def _assert_counting(options: Mapping[str, Any]) -> None:
    """Refuse what would be ignored: nothing here adds up the rows of a frame, or writes a table."""
    for option, counting in _COUNTS.items():
        given = options.get(option)
        other = [str(key) for key in given if key not in counting] if isinstance(given, Mapping) else []
        if other:
            raise error(
                "SPS-SPEC-KEY",
                f"Expected of {option} only {', '.join(counting)}, which count outside a run. Got {', '.join(other)}.",
                "Take them out, or write a pipeline file and run it.",
                at=f"{option}.{other[0]}",
            )
