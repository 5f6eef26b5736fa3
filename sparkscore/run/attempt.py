"""One claimed attempt of a run: units are scored, committed and proved one after another, and its end is recorded."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkscore.errors import Exit, SparkscoreError, error
from sparkscore.ledger.claims import Claim
from sparkscore.ledger.events import EventLog, read_events
from sparkscore.ledger.plans import Plan, Unit
from sparkscore.ledger.store import Store
from sparkscore.run import folding
from sparkscore.run.budget import Totals, assert_within, task_limit
from sparkscore.run.deaths import Deaths
from sparkscore.run.environment import versions
from sparkscore.run.frames import plan_names, prepared, scoring_frame
from sparkscore.run.keys import run_sealing
from sparkscore.run.limits import Meter
from sparkscore.run.lines import line_of
from sparkscore.run.metrics import metrics_of
from sparkscore.run.planning import Bound, quarantine_location
from sparkscore.run.prediction import record_prediction
from sparkscore.run.proof import UnitProof, prove, receipted, recorded_proofs
from sparkscore.run.records import record_cause, record_findings, record_plan
from sparkscore.run.requests import requests_of
from sparkscore.run.result import Run
from sparkscore.run.scan import Choice, choose, cores_of, cut_tasks
from sparkscore.run.stop import StopSignal
from sparkscore.run.summaries import summary_of
from sparkscore.run.took import came_to, predicted
from sparkscore.runtime import files
from sparkscore.scoring.scorer import result_schema
from sparkscore.spark.carriers import TASK_COL, FusedTask, UnitContext, UnitTask
from sparkscore.spark.commit import Commit, unit_constants, with_ss
from sparkscore.spark.failures import from_spark, mapped, shown_cause
from sparkscore.spark.schemas import arrow_schema, spark_schema
from sparkscore.spark.sessions import hand_out, interruptible, is_over
from sparkscore.spark.standstill import ended_when_still
from sparkscore.spark.udfs import fused_frame, map_in_arrow
from sparkscore.spec.scoring import ScoringPlan, Sealing

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = ["Attempt", "Progress", "exit_code_of"]

_log = logging.getLogger(__name__)

# Called with (units done, units in all, rows done, rows planned or None, bad rows) after each unit.
Progress = Callable[[int, int, int, int | None, int], None]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_MAX_COMMIT_TRIES = 3
_PROOF_EVERY_S = 30.0  # a proof takes a second of a busy driver (docs/decisions/0005)


@dataclass(frozen=True)
class _Unproved:
    """A unit that is committed and waits for its proof; its rows as the receipts tell them."""

    commit: Commit
    rows: Totals
    wall_s: float


class Attempt:
    """One claimed attempt of a run; its methods are the steps, in the order of `run`."""

    def __init__(self, spark: SparkSession, job: Bound, plan: Plan, store: Store, claim: Claim) -> None:
        self.spark = spark
        self.job = job
        self.pipeline = job.pipeline
        self.plan = plan
        self.store = store
        self.claim = claim
        self.line = line_of(spark, plan, store)
        metrics = metrics_of(store, plan)
        claim.on_beat(metrics.beat)
        self.events = EventLog(store, plan.run_id, claim.attempt, metrics.take)
        self.deaths = Deaths(store, self.events)
        self.proofs: dict[int, UnitProof] = {}
        self.unproved: list[_Unproved] = []
        self._proved_at = time.monotonic()
        self.fail_on_quarantine = False
        self.seconds: Mapping[int, float] = {}  # of a probe: unit -> how long each of its tasks may score
        self._scoring: int | None = None  # the unit at hand
        self._sealing: Sealing | None = None
        self._model = job.scoring.model  # as the workers find it
        self._lost: dict[int, int] = {}  # units to be made again -> the version at which they were lost

    def run(self, progress: Progress) -> Run:
        """Go through the units, and record how it ended, whatever ended it."""
        try:
            self._open()
            self._resume()
            self._score_all(progress)
            self._close()
        except Exception as cause:  # boundary: closing a run
            ended = self._ended(cause)
            if ended is cause:
                raise
            raise ended from shown_cause(cause)
        except BaseException as stop:  # boundary: closing a run that was told to stop
            self._stopped(stop)
            raise
        return Run(self.spark, summary_of(self.store, self.plan))

    # -- steps -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.events.write(
            "run_claimed",
            device=self.pipeline.model.device,
            on_error=self.pipeline.on_error.model_dump(mode="json"),
            limits=self.pipeline.limits.model_dump(mode="json", exclude_defaults=True),
            cores=self._cores if self.pipeline.limits.usd is not None else None,
            quarantine=quarantine_location(self.pipeline),
            model_flags=list(self.job.model.flags),
            scan=self._choice.name,
            scan_reason=self._choice.why,
            **versions(self.spark),
        )
        record_plan(self.events, self.plan)
        if self.claim.attempt == 1:
            with mapped(self.spark):
                predict = partial(record_prediction, self.spark, self.events, self.store)
                predict(self.job, self.plan, scan=self._choice.name, cores=lambda: self._cores)
        for message in self.plan.header["narrowing"]:
            self.events.write("narrowing", detail=message)
        for message in self.plan.header.get("sink_weaker", ()):
            self.events.write("at_least_once", detail=message)
        if self.plan.header["input_ss"]:
            self.events.write("input_ss_dropped", detail="the source has a column _ss; rename it in prepare to keep it")
        self._sealing = run_sealing(self.pipeline, self.store, self.plan.run_id)
        with mapped(self.spark):
            self._model = hand_out(self.spark, self.job.scoring.model, self.job.model.folder)

    def _resume(self) -> None:
        """Take the units that earlier attempts committed.

        What an earlier attempt recorded of a unit is taken as it is; a unit that was committed and not recorded,
        because its driver died in between, is proved now.
        """
        events = read_events(self.store, self.plan.run_id)
        self._lost = {e["unit_seq"]: e["version"] for e in events if e["event"] == "commit_lost" and "version" in e}
        self._meter = Meter(
            self.pipeline.limits,
            events,
            self.plan.units,
            attempt=self.claim.attempt,
            cores=lambda: self._cores,
            requests=self._requests,
        )
        self._predicted: dict[str, float | None] = {**predicted(events)}
        recorded = recorded_proofs(events)
        unrecorded = []
        for seq, commit in sorted(self._standing(recorded).items()):
            if seq in recorded:
                self.proofs[seq] = recorded[seq]
            else:
                unrecorded.append(commit)
        for proof in prove(self.line, self.plan, unrecorded, self.store) if unrecorded else ():
            self._record("unit_reused", proof, 0)
        self.line.assert_held(self._committed())

    def _standing(self, proofs: Mapping[int, UnitProof]) -> dict[int, Commit]:
        """Give the commits that stand, by unit; those that another writer overwrote are recorded, to be made again."""
        known = {seq: proof.commit for seq, proof in proofs.items()}
        there, lost = self.line.standing(known)
        for seq in lost:
            self._lost[seq] = (known[seq].version or 0) if seq in known else 0
            self.events.write("commit_lost", unit_seq=seq, version=self._lost[seq])
        return there

    def _score_all(self, progress: Progress) -> None:
        """Score the units that are not done, and once more those whose commits were lost meanwhile."""
        for _ in range(_MAX_COMMIT_TRIES):
            for unit in self.plan.units:
                if unit.seq not in self.proofs:
                    self._assert_room(unit)
                    self._score(unit)
                self._report(progress)
            self._prove()
            there = self._standing(self.proofs)
            self.proofs = {seq: proof for seq, proof in self.proofs.items() if seq in there}
            missing = [unit.seq for unit in self.plan.units if unit.seq not in self.proofs]
            if not missing:
                return
        raise self._overwritten(missing[0])

    def _requests(self, unit: Unit) -> float:
        return requests_of(unit, len(set(plan_names(self.job.scoring))), self.pipeline.sink.place)

    def _assert_room(self, unit: Unit) -> None:
        known = None if self.plan.header["balance_basis"] == "receipt" else unit.rows
        self._meter.assert_room(unit, known, lambda: self._totals().rows)

    def _score(self, unit: Unit) -> None:
        """Score and commit one unit, judge the budget, and prove what is committed when a proof is due.

        A proof is a query of its own: short units share one, the pilot has one before anything follows it. Until then
        the budget is judged by the receipts, so a breach stops the run after its unit whatever the units' length.
        """
        started = time.monotonic()
        self._scoring = unit.seq
        self.events.write("unit_started", unit_seq=unit.seq, unit_id=unit.unit_id)
        commit = self._commit(unit)
        due = not self.proofs or unit is self.plan.units[-1] or time.monotonic() - self._proved_at >= _PROOF_EVERY_S
        rows = None if due else receipted(self.store, self.plan.run_id, commit)  # a proof reads them itself
        self.unproved.append(_Unproved(commit, rows or Totals(), time.monotonic() - started))
        self._meter.took(unit, time.monotonic() - started)
        if rows is None:
            self._prove()
        try:
            assert_within(self._totals(), self.pipeline.on_error, self.plan.run_id)
        except SparkscoreError:
            self._prove()
            raise

    def _prove(self) -> None:
        """Prove and record the units that were committed since the last proof; the first bears the query's time."""
        waiting, self.unproved = self.unproved, []
        since = time.monotonic()
        proofs = prove(self.line, self.plan, [w.commit for w in waiting], self.store) if waiting else ()
        for one, proof in zip(waiting, proofs, strict=True):
            reused = one.commit.attempt != self.claim.attempt
            wall_s = one.wall_s + time.monotonic() - since
            self._record("unit_reused" if reused else "unit_committed", proof, wall_s)
            since = time.monotonic()
        self.deaths.tell()
        self._proved_at = time.monotonic()

    def _commit(self, unit: Unit) -> Commit:
        """Write one unit until its commit stays; one that another writer overwrote is made again, as is one that
        Delta refused because another one's changed the table, such as the first of two first ones.
        """
        for left in reversed(range(_MAX_COMMIT_TRIES)):
            self.claim.assert_mine()
            self._assert_unchanged(unit)
            try:
                self._write(unit)
            except SparkscoreError as refusal:
                if refusal.code != "SPS-CLUSTER-CONFLICT" or not left:
                    raise
                continue
            commit = self.line.find(unit, again=unit.seq in self._lost)
            if commit is not None:
                if commit.attempt != self.claim.attempt:
                    self.claim.assert_mine()
                return commit
            self.events.write("commit_lost", unit_seq=unit.seq)
        raise self._overwritten(unit.seq)

    def _overwritten(self, seq: int) -> SparkscoreError:
        return error(
            "SPS-CLUSTER-CONFLICT",
            f"Expected the commit of unit {seq} to stay. Got it overwritten {_MAX_COMMIT_TRIES} times.",
            "Let one driver at a time write this sink, or give it a store with atomic puts.",
            run=self.plan.run_id,
        )

    def _write(self, unit: Unit) -> None:
        commit = Commit(self._lost.get(unit.seq, -1), unit.seq, unit.unit_id, self.claim.attempt)
        expressions = dict(self.pipeline.expressions())
        context = self._context(unit)
        evidence = partial(self.store.names, f"evidence/{self.plan.run_id}")
        patience_s = self.pipeline.on_error.no_progress_s
        try:
            with (
                ended_when_still(self.spark, context, [f.path for f in unit.files], patience_s, evidence),
                mapped(self.spark, expressions, run=self.plan.run_id, unit=unit.seq),
                interruptible(self.spark),
            ):
                self.line.write(self._unit_frame(unit, context), commit)
        except SparkscoreError as failure:
            if failure.code != "SPS-FENCED":
                raise
            # Another attempt committed this unit meanwhile. If its driver was passed over as dead, the run is ours.
            self.claim.assert_mine()

    def _context(self, unit: Unit) -> UnitContext:
        return UnitContext(self.plan.run_id, unit.seq, self.claim.attempt, self.store.root)

    def _unit_frame(self, unit: Unit, context: UnitContext) -> DataFrame:
        scoring = self._task_plan(unit)
        task = UnitTask(scoring, context, self.seconds.get(unit.seq))
        scan = self._choice.scan
        if scan is not None:
            rows = scan.batch_schema
            tasks = cut_tasks(self.spark, unit.files, self._cores)
            scored = fused_frame(self.spark, FusedTask(scan, tasks, task), self._declared(scoring, rows))
        else:
            paths = [f.path for f in unit.files]
            frame = scoring_frame(prepared(self.spark, self.job.snapshot, self.pipeline, paths), scoring)
            scored = map_in_arrow(frame, task, self._declared(scoring, arrow_schema(frame.schema)))
        provider = _PROVIDERS.get(self.pipeline.model.device, "auto")
        constants = unit_constants(self.plan.run_id, unit, scoring.model, provider, datetime.now(UTC))
        return with_ss(scored, constants)

    def _declared(self, scoring: ScoringPlan, rows: pa.Schema) -> StructType:
        return spark_schema(result_schema(scoring, rows).append(pa.field(TASK_COL, pa.int64())))

    @cached_property
    def _choice(self) -> Choice:
        with mapped(self.spark):
            return choose(self.spark, self.job, self.plan)

    @cached_property
    def _cores(self) -> int:
        return cores_of(self.spark)

    def _task_plan(self, unit: Unit) -> ScoringPlan:
        scoring = self.job.scoring
        limit = task_limit(self._totals(), self.pipeline.on_error, self.plan.header["planned_rows"])
        on_error = replace(scoring.on_error, max_bad_rows=limit)
        # The pilot proves that rows do not depend on their neighbours; where it has too few that differ, the next does.
        proven = any(proof.proof_calls for proof in self.proofs.values())
        sealing = replace(self._sealing, unit_id=unit.unit_id) if self._sealing else None
        return replace(scoring, model=self._model, on_error=on_error, prove_batch=not proven, sealing=sealing)

    def _assert_unchanged(self, unit: Unit) -> None:
        if self.job.snapshot.route != "files":
            return  # Delta itself answers for the pinned version
        files.assert_unchanged(unit.files, run=self.plan.run_id, unit=unit.seq)

    def _close(self) -> None:
        totals, on_error = self._totals(), self.pipeline.on_error
        self.line.assert_held(self._committed())
        rows_in = sum(p.committed_rows if p.in_rows is None else p.in_rows for p in self.proofs.values())
        if rows_in == 0 and not on_error.allow_empty:
            raise error(
                "SPS-ENV-EMPTY",
                "Expected rows in the source. Got none.",
                "Check source.location and source.where; if an empty input is normal, set on_error.allow_empty: true.",
                run=self.plan.run_id,
            )
        if rows_in and totals.ok_rows < on_error.min_ok_rows:
            raise error(
                "SPS-NO-OK-ROWS",
                f"Expected at least {on_error.min_ok_rows} good rows. Got {totals.ok_rows} of {rows_in}.",
                f"Look at `sparkscore quarantine summary {self.plan.run_id}`.",
                run=self.plan.run_id,
            )
        self.claim.assert_mine()
        with mapped(self.spark, run=self.plan.run_id), interruptible(self.spark):
            self.line.publish(self._committed(), self.claim.attempt)
        self.events.write("run_published", units=len(self.plan.units))
        is_first = self.claim.attempt == 1
        folding.fold_quarantine(self.spark, self.pipeline, self.plan, self.line, is_first)
        self.events.write("quarantine_folded", rows=totals.bad_rows)
        self.claim.assert_mine()  # a driver that was passed over since then leaves the end to its successor
        judged = self._predicted and {**self._predicted, **came_to(self._meter.hours, self.proofs.values())}
        self.events.write("run_closed", exit_code=exit_code_of(totals.bad_rows, self.fail_on_quarantine), **judged)
        if folding.tables_folded(self.spark, self.store, self.plan.run_id, is_first):
            self.events.write("tables_folded")
        self._swept()

    def _swept(self) -> None:
        try:
            self.line.sweep()
        except Exception:  # boundary: a run has ended as it has, whatever is left over; the next run's sweep finds it
            _log.warning("what run %s left over could not be removed", self.plan.run_id, exc_info=True)

    # -- how it ends -----------------------------------------------------------------------------------

    def _ended(self, cause: Exception) -> BaseException:
        """Record why it ended, and give the error to raise. A run whose session is over was stopped: `spark-submit`
        ends the JVM at a SIGTERM, and all that arrives here are calls that fail.
        """
        named = from_spark(cause, dict(self.pipeline.expressions()), run=self.plan.run_id)
        if named.exit_code in (Exit.FAILED, Exit.INFRASTRUCTURE) and is_over(self.spark):
            stop = StopSignal(signal.SIGTERM, "the Spark session ended: spark-submit was told to stop, or its JVM died")
            self._stopped(stop)
            return stop
        named = self._passed_over() or self.deaths.explained(self.spark, named)
        self._fail(named)
        return named

    def _passed_over(self) -> SparkscoreError | None:
        """Tell that another attempt took the run, which is why things are not as this one left them."""
        try:
            self.claim.assert_mine()
        except SparkscoreError as failure:
            return failure if failure.code == "SPS-FENCED" else None
        return None

    def _fail(self, failure: SparkscoreError) -> None:
        failure.context.setdefault("run", self.plan.run_id)
        event = {"SPS-FENCED": "run_fenced", "SPS-LIMIT": "run_stopped"}.get(failure.code, "run_failed")
        has_cores = failure.code != "SPS-CLUSTER-STALLED"  # tasks that cannot be ended may hold all of them
        is_ours = event != "run_fenced" and has_cores
        if is_ours:
            self._prove_what_there_is()
        record_cause(self.events, failure, self._totals())
        text = {"code": failure.code, "message": str(failure)[:2000], "exit_code": failure.exit_code}
        unit = failure.context.get("unit", self._scoring)  # a proof may fail over one before the unit at hand
        if unit is not None and unit not in self.proofs:
            self.events.write("unit_failed", unit_seq=unit, error_code=failure.code)
        self.events.write(event, **text)
        if is_ours:
            self._fold_what_there_is()

    def _prove_what_there_is(self) -> None:
        """Record the units before the one that failed; where that fails too, the next attempt does it."""
        try:
            self._prove()
        except Exception:  # boundary: the run's own failure is the one to tell
            _log.warning("the newest units of run %s could not be proved", self.plan.run_id, exc_info=True)

    def _fold_what_there_is(self) -> None:
        """Show a failed run and its bad rows in the tables too."""
        is_first = self.claim.attempt == 1
        try:
            if self.proofs:
                folding.fold_quarantine(self.spark, self.pipeline, self.plan, self.line, is_first)
        except Exception:  # boundary: the run's own failure is the one to tell
            _log.warning("the bad rows of run %s could not be folded", self.plan.run_id, exc_info=True)
        folding.tables_folded(self.spark, self.store, self.plan.run_id, is_first)

    def _stopped(self, cause: BaseException) -> None:
        """A signal: the unit was cancelled, the claim is released by this event, and the next start is immediate."""
        signum = getattr(cause, "signum", None) or 2
        message = str(cause) or f"stopped by signal {signum}"
        self.events.write("run_stopped", exit_code=128 + signum, message=message)

    # -- records ---------------------------------------------------------------------------------------

    def _record(self, event: str, proof: UnitProof, wall_s: float) -> None:
        unit = self.plan.units[proof.commit.unit_seq]
        self.proofs[unit.seq] = proof
        fields = asdict(proof)
        commit = fields.pop("commit")
        self.events.write(
            event,
            unit_seq=unit.seq,
            unit_id=unit.unit_id,
            committed_version=commit["version"],
            commit_attempt=commit["attempt"],
            quarantined_rows=fields.pop("bad_rows"),
            wall_ms=round(wall_s * 1000),
            txn_app_id=self.line.app_id,
            txn_version=unit.seq if self.line.app_id else None,
            **fields,
        )
        record_findings(self.events, unit.seq, proof, self.job, self.proofs.values())

    def _committed(self) -> dict[int, int]:
        return {seq: proof.committed_rows for seq, proof in self.proofs.items()}

    def _totals(self) -> Totals:
        proved = sum((proof.totals for proof in self.proofs.values()), Totals())
        return sum((one.rows for one in self.unproved), proved)

    def _report(self, progress: Progress) -> None:
        totals = self._totals()
        progress(
            len(self.proofs) + len(self.unproved),
            len(self.plan.units),
            totals.rows,
            self.plan.header["planned_rows"],
            totals.bad_rows,
        )


def exit_code_of(bad_rows: int, fail_on_quarantine: bool) -> int:
    """Give the exit code of a run that succeeded."""
    return int(Exit.ATTENTION if bad_rows and fail_on_quarantine else Exit.OK)
