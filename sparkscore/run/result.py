"""The outcome of a run: a summary for people and schedulers, and frames of its failures and units."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sparkscore.errors import error
from sparkscore.ledger.fold import unit_rows
from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import open_store
from sparkscore.run.lines import line_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkscore.run.golden import Deviation

__all__ = ["Run", "Summary"]


@dataclass(frozen=True)
class Summary:
    """What a run came to; the JSON object of ``--result``. Rows are counted from the committed table."""

    run_id: str
    state: str
    exit_code: int
    code: str | None
    message: str | None
    planned_rows: int | None
    ok_rows: int
    quarantined_rows: int
    filtered_rows: dict[str, int] | None  # None, as model_calls: tasks could not write their receipts
    units: int
    model: dict[str, Any]
    providers: dict[str, int]
    scan: str
    sink: str
    quarantine: str
    ledger: str
    started_at: str
    ended_at: str
    rows_per_s: float | None
    model_calls: int | None = 0
    attempt: int = 1
    reused_units: int = 0
    repeated: bool = False  # the run id was finished before; nothing ran
    quarantined_by_code: dict[str, int] = field(default_factory=dict)
    scan_reason: str = ""  # why Spark scans, and not the workers
    weights: str = "fast"
    weights_reason: str = ""  # why the weights have that form, where there was a choice
    precision: str = "as_is"
    deviation: Deviation | None = None  # of that precision from float32, over the golden rows
    hours: float = 0.0  # from claim to end, of all attempts
    ns_row: float | None = None  # nanoseconds of one core for a row; None where tasks could not write their receipts
    predicted_hours: float | None = None  # by an estimate in the ledger, when the run began
    predicted_ns_row: float | None = None
    truncated_rows: int = 0  # rows with a text that was cut to max_tokens
    tokens: int = 0  # of the texts that the model was called with
    tokens_computed: int = 0  # and with the padding to the longest text of each call
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the summary as plain JSON values."""
        return {**asdict(self), "warnings": list(self.warnings)}

    def __str__(self) -> str:
        head = f"run {self.run_id}: {self.state}" + (" (already finished; nothing was scored)" if self.repeated else "")
        rate = f", {self.rows_per_s:,.0f} rows/s" if self.rows_per_s else ""
        planned = "?" if self.planned_rows is None else f"{self.planned_rows:,}"
        lines = [
            head,
            f"  rows         {planned} planned = {self.ok_rows:,} ok + {self.quarantined_rows:,} quarantined"
            f" + {self._filtered} filtered{rate}",
            *(f"    {code:<18} {rows:,}" for code, rows in sorted(self.quarantined_by_code.items())),
            *(f"    dropped by {step}: {rows:,}" for step, rows in (self.filtered_rows or {}).items()),
            *([f"    texts cut to max_tokens: {self.truncated_rows:,}"] if self.truncated_rows else []),
            *([f"    tokens: {self.tokens:,}, with padding {self.tokens_computed:,}"] if self.tokens else []),
            f"  units        {self.units} ({self.reused_units} from earlier attempts), attempt {self.attempt}",
            f"  model        {self.model['uri']}",
            f"               version {self.model['version']}, sha256 {self.model['sha256']}",
            f"  provider     {', '.join(f'{p} in {n} tasks' for p, n in self.providers.items()) or self._no_provider}",
            f"  scan         {self.scan}{f' ({self.scan_reason})' if self.scan_reason else ''}",
            *([f"  weights      {self.weights} ({self.weights_reason})"] if self.weights_reason else []),
            *([f"  precision    {self.precision}: {self.deviation}"] if self.deviation else []),
            *([f"  took         {self._took}"] if self.predicted_hours else []),
            f"  scores       {self.sink}",
            f"  quarantine   {self.quarantine}",
            f"  ledger       {self.ledger}",
            *(f"  warning      {w}" for w in self.warnings),
        ]
        if self.message:
            lines.append(f"  error        {self.message}")
        return "\n".join(lines)

    @property
    def _filtered(self) -> str:
        return "?" if self.filtered_rows is None else f"{sum(self.filtered_rows.values()):,}"

    @property
    def _took(self) -> str:
        hours, ns_row = self.predicted_hours or 0.0, self.predicted_ns_row or 0.0
        row = "" if self.ns_row is None else f"; a row {self.ns_row:,.0f} ns of a core, {ns_row:,.0f} predicted"
        return f"{self.hours * 3600:,.1f} s, {hours * 3600:,.1f} s predicted{row}"

    @property
    def _no_provider(self) -> str:
        return "unknown: no receipts" if self.model_calls is None else "none ran"


class Run:
    """A finished or stopped run of a pipeline.

    Parameters
    ----------
    spark : SparkSession
        The session that frames are read with.
    summary : Summary
    """

    def __init__(self, spark: SparkSession, summary: Summary) -> None:
        self._spark = spark
        self._summary = summary
        self.run_id = summary.run_id
        self.state = summary.state
        self.exit_code = summary.exit_code

    def summary(self) -> Summary:
        """Give the counts, places and verdict of the run; `print` it, or take `.to_json()`."""
        return self._summary

    def scores(self) -> DataFrame:
        """Read the run's good rows from the sink. Lazy; scores nothing."""
        return self._rows("ok")

    def failures(self) -> DataFrame:
        """Read the run's bad rows from the sink: keys and kept columns, and in `_ss` why and where. Lazy."""
        return self._rows("error")

    def units(self) -> DataFrame:
        """Give the units of the run: columns of `sparkscore.tables.UNITS`."""
        from sparkscore.spark.schemas import table_frame
        from sparkscore.tables import UNITS

        return table_frame(self._spark, UNITS, unit_rows(open_store(self._summary.ledger), self.run_id))

    def __repr__(self) -> str:
        return str(self._summary)

    def _rows(self, status: str) -> DataFrame:
        from pyspark.sql import functions as F

        store = open_store(self._summary.ledger)
        plan = read_plan(store, self.run_id)
        assert plan is not None, "a run has a plan"
        rows = line_of(self._spark, plan, store).rows()
        if rows is None:
            raise error("SPS-ENV-EMPTY", f"Expected rows of run {self.run_id}. Got no sink yet.", "Score rows first.")
        return rows.where(F.col("_ss.status") == status)
