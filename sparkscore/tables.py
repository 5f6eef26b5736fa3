"""Every table and struct that sparkscore writes: columns, types, units and meaning, in one place.

Types are Spark DDL, so that they read the same in docs, SQL and code; `arrow_type` gives the Arrow form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: name, Spark DDL type, and what it means (with its unit)."""

    name: str
    type: str
    meaning: str


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


# What the scorer says of a bad row; null for a good one. It is the last column that leaves the worker.
ERR = _columns(
    ("stage", "string", "read | decode | pre | infer | post"),
    ("error_code", "string", "SPS-ROW-… of `sparkscore.errors.CODES`"),
    (
        "error_class",
        "string",
        "taxonomy id: P1 raised, P4-P6 died, P7 memory, P8 time, O3 input, O4 output, G1 GPU memory, G2 GPU lost",
    ),
    ("error_type", "string", "exception class name, null where none was raised"),
    ("error_message", "string", "scrubbed, at most 500 characters, never a row value"),
    ("source_pointer", "string", "file#row_index, file#block+ordinal, or null where the source has no address"),
    (
        "payload",
        "binary",
        "the fed columns and keys as JSON, by quarantine.payload; null under hash and none, encrypted under encrypted",
    ),
    ("payload_sha256", "string", "sha256 of the fed columns and keys as canonical JSON; null under none and encrypted"),
    ("batch_rows", "int", "rows of the model batch that the row was in"),
    ("tries", "int", "model calls that the row took part in"),
)

# The first column of every sink: what happened to the row, and where it came from.
SS = _columns(
    ("status", "string", "ok | error"),
    *((c.name, c.type, c.meaning) for c in ERR),
    ("run_id", "string", "the run that committed the row"),
    ("unit_seq", "bigint", "position of the row's unit in the plan"),
    ("unit_id", "string", "sha256 of the unit's files"),
    ("task_attempt_id", "bigint", "on the first row of each task: which receipt counts"),
    ("model_version", "string", "registry version, or the first 12 digits of the sha256"),
    ("model_sha256", "string", "digest of the model's manifest"),
    ("provider", "string", "the execution provider asked for; receipts hold the one that ran"),
    ("scored_at", "timestamp", "UTC, when the unit started"),
)

RUNS = _columns(
    ("run_id", "string", "key"),
    ("attempt", "bigint", "key: number of the claim"),
    ("kind", "string", "batch | replay"),
    ("pipeline_name", "string", "`name` of the pipeline file"),
    ("state", "string", "PLANNED | RUNNING | SUCCEEDED | FAILED | STOPPED | FENCED | ABANDONED | DISCARDED"),
    ("exit_code", "int", "the exit code of the attempt"),
    ("error_code", "string", "SPS-… of the failure"),
    ("error_message", "string", "its text, at most 2,000 characters"),
    ("spec_sha256", "string", "fingerprint of the pipeline"),
    ("code_version", "string", "version of sparkscore"),
    ("library_versions", "map<string,string>", "of the driver: python, sparkscore, onnxruntime, pyspark …"),
    ("spark_version", "string", "version of the session"),
    ("spark_app_id", "string", "spark.app.id"),
    ("model_uri", "string", "as written"),
    ("model_version", "string", "as resolved, once"),
    ("model_sha256", "string", "digest of the manifest"),
    ("device", "string", "asked for"),
    ("providers_used", "map<string,bigint>", "provider that ran -> tasks"),
    ("input_snapshot", "string", "JSON: format, locations, options, version of a Delta table, and how it is read"),
    ("sink_location", "string", "where the rows are"),
    ("units_total", "bigint", "units of the plan"),
    ("units_committed", "bigint", "units committed by this attempt"),
    ("units_reused", "bigint", "units found committed by earlier attempts"),
    ("planned_rows", "bigint", "rows after source.where"),
    ("ok_rows", "bigint", "counted from the committed rows"),
    ("quarantined_rows", "bigint", "counted from the committed rows"),
    ("quarantined_by_code", "map<string,bigint>", "SPS-ROW-… -> rows"),
    ("filtered_rows", "map<string,bigint>", "prepare step -> rows it dropped; null without receipts"),
    ("scored_rows", "bigint", "rows that reached the model; null without receipts"),
    ("model_calls", "bigint", "calls of the session, bisection included; null without receipts"),
    ("balance_ok", "boolean", "planned = ok + quarantined + filtered; null where missing receipts leave it open"),
    ("balance_basis", "string", "footer | count | receipt"),
    ("started_at", "timestamp", "UTC"),
    ("ended_at", "timestamp", "UTC"),
    ("heartbeat_at", "timestamp", "UTC, last sign of life of an attempt that did not close, when it was read"),
    ("rows_per_s", "double", "committed rows of the attempt per second of its units"),
)

UNITS = _columns(
    ("run_id", "string", "key"),
    ("unit_seq", "bigint", "key: position in the plan"),
    ("unit_id", "string", "sha256 of the canonical JSON of its files"),
    ("attempt", "bigint", "the attempt that recorded it"),
    ("state", "string", "COMMITTED | REUSED | FAILED | PLANNED"),
    ("files", "array<string>", "input files"),
    ("planned_rows", "bigint", "null where the format cannot tell before it is read"),
    ("in_rows", "bigint", "from receipts; null where they are missing and the plan cannot stand in"),
    ("ok_rows", "bigint", "from the committed rows"),
    ("quarantined_rows", "bigint", "from the committed rows"),
    ("filtered_rows", "map<string,bigint>", "prepare step -> rows it dropped; null without receipts"),
    ("scored_rows", "bigint", "from receipts, null without"),
    ("model_calls", "bigint", "from receipts, null without"),
    ("txn_app_id", "string", "Delta application transaction; null in a staged sink"),
    ("txn_version", "bigint", "= unit_seq; null in a staged sink"),
    ("committed_version", "bigint", "version of the sink table; null in a staged sink"),
    ("output_files", "array<struct<path:string,size_bytes:bigint>>", "data files of the commit"),
    ("wall_ms", "bigint", "scoring and commit; with the proof, where one was due"),
    ("peak_rss_bytes", "bigint", "largest worker"),
)

QUARANTINE = _columns(
    ("q_id", "string", "key: sha256(run_id, unit_id, source_pointer or keys, stage)"),
    ("run_id", "string", "the run that met the row"),
    ("unit_id", "string", "its unit"),
    ("keys", "map<string,string>", "the row's keys, as text"),
    ("source_pointer", "string", "where the row is in the source"),
    ("stage", "string", "read | decode | pre | infer | post"),
    ("error_class", "string", "taxonomy id"),
    ("error_code", "string", "SPS-ROW-…"),
    ("error_type", "string", "exception class"),
    ("error_message", "string", "scrubbed"),
    ("batch_rows", "int", "rows of its model batch"),
    ("tries", "int", "model calls it took part in"),
    ("model_sha256", "string", "digest of the model"),
    ("payload_mode", "string", "none | hash | encrypted | plain, by what the row holds"),
    ("payload", "binary", "by mode"),
    ("payload_sha256", "string", "by mode"),
    ("first_seen_at", "timestamp", "UTC"),
    ("last_seen_at", "timestamp", "UTC"),
    ("expires_at", "timestamp", "UTC, first_seen_at + quarantine.keep_days"),
    ("state", "string", "open | replayed_ok | replayed_bad | discarded | expired"),
    ("resolved_run_id", "string", "the run that resolved it"),
)


# What the events of a run are called, in the order in which a run may meet them; the ledger holds each as an object.
EVENTS = {
    "run_claimed": "an attempt begins: device, versions, limits, and `model_flags`, what admission noticed",
    "run_planned": "the plan that the attempt follows: rows, units, model, precision, and how the golden rows came out",
    "run_predicted": "what the run should take, by an estimate in its ledger: hours, nanoseconds a row",
    "narrowing": "a column is cast to a narrower type, as the pipeline says",
    "input_ss_dropped": "the source has a column `_ss`, which is left out",
    "at_least_once": "the sink cannot keep rows from being written twice when a driver dies; why",
    "fallback": "something less than was wanted: the CPU for `device: auto`, Delta's own reader for plain files",
    "unit_started": "a unit is being scored",
    "unit_committed": "its commit is proved: rows, calls, files, providers",
    "unit_reused": "the commit of an earlier attempt, proved",
    "unit_failed": "the unit that the attempt ended at",
    "provider_resolved": "a provider that ran for the first time in the run, with its tasks",
    "oom_split": "model calls of the unit were halved for want of memory",
    "batch_mix": "batches of the unit that failed only as a whole, and were scored apart",
    "worker_died": "a worker died: class, phase, and the addresses of the rows that it had",
    "receipts_missing": "tasks of the unit could not write their receipts; whether the balance is proved without",
    "commit_lost": "another writer overwrote the unit's commit; it is made again",
    "budget_breached": "more bad rows than `on_error` allows",
    "limit_reached": "the run stops before the unit that would pass one of its `limits`",
    "model_rejected": "the model was refused or failed; in attempt 0 when there was no attempt yet",
    "run_published": "every unit is proved and visible",
    "quarantine_folded": "the bad rows are in the quarantine",
    "run_closed": "the run succeeded; where it was predicted, what it took beside it",
    "run_failed": "it ended with an error: code, message, exit code",
    "run_stopped": "it ended by a signal, or at one of its `limits`",
    "run_fenced": "it ended because another attempt owns the run",
    "run_discarded": "its rows were taken back",
    "tables_folded": "it is in the ledger's tables",
}


def arrow_type(type_ddl: str) -> pa.DataType:
    """Turn a Spark DDL type of this module into its Arrow type.

    Examples
    --------
    >>> str(arrow_type("map<string,bigint>"))
    'map<string, int64>'
    """
    import pyarrow as pa

    simple: dict[str, pa.DataType] = {
        "string": pa.string(),
        "binary": pa.binary(),
        "int": pa.int32(),
        "bigint": pa.int64(),
        "double": pa.float64(),
        "boolean": pa.bool_(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    if type_ddl in simple:
        return simple[type_ddl]
    outer, inner = re.fullmatch(r"(map|array|struct)<(.*)>", type_ddl).groups()  # type: ignore[union-attr]  # ours
    if outer == "array":
        return pa.list_(arrow_type(inner))
    if outer == "map":
        key, value = inner.split(",", 1)
        return pa.map_(arrow_type(key), arrow_type(value))
    return pa.struct([(name, arrow_type(t)) for name, t in (f.split(":", 1) for f in inner.split(","))])


def arrow_struct(columns: tuple[Column, ...]) -> pa.StructType:
    """Give columns as one Arrow struct type."""
    import pyarrow as pa

    return pa.struct([pa.field(c.name, arrow_type(c.type)) for c in columns])
