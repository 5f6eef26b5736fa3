"""An iterator of Arrow record batches in, an iterator of scored record batches out: the one idea of sparkscore."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.ahead import ahead
from sparkscore.runtime.cache import local_folder
from sparkscore.runtime.crumbs import Crumb
from sparkscore.runtime.encoders import Encoder, Group
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.guard import GuardedSession
from sparkscore.runtime.outputs import output_type
from sparkscore.runtime.providers import CPU
from sparkscore.runtime.session import Session, open_session
from sparkscore.runtime.tensors import Tally
from sparkscore.scoring.assembly import Assembly, Scored
from sparkscore.scoring.batching import SLACK, auto_rows, call_rows, micro_batches, most_rows, rebatch, window_rows
from sparkscore.scoring.calls import ModelCall
from sparkscore.scoring.counts import Counts
from sparkscore.scoring.failures import Kind, classified
from sparkscore.scoring.intake import Ends, Intake, mark_corrupt, pointers
from sparkscore.scoring.isolation import Isolation
from sparkscore.scoring.proof import MAX_ROWS, distinct_rows, mixes_rows, prove_independence
from sparkscore.scoring.verdicts import ERR_TYPE, Verdict, err_column, verdicts
from sparkscore.spec.scoring import ERR_COL, POINTER_COL, ModelFile, ScoringPlan

__all__ = ["Counts", "Scorer", "open_scorer", "result_schema"]

Array = NDArray[Any]


@dataclass(frozen=True)
class _Encoded:
    """A batch on its way to the model; `faults` gets more, and `tally` counts on, while it is scored."""

    batch: pa.RecordBatch
    faults: Faults
    groups: list[Group]
    tally: Tally


class Scorer:
    """Scores batches by a plan; one for each task.

    Parameters
    ----------
    plan : ScoringPlan
        What feeds what, and what happens to bad rows.
    folder : Path
        Local folder of the verified model, with its encoders' files.
    session : Session
        The loaded model.
    in_worker : bool
        Whether this process is a worker that may be ended (exit code 70) when a model call cannot be.
    crumb : Crumb, optional
        Where it writes down what it is doing.

    Attributes
    ----------
    counts : Counts
        Advanced as batches come out; complete when `score` is exhausted.
    session : Session
        As given.

    Notes
    -----
    ``on_error.max_consecutive_bad_batches`` counts batches of *this* scorer in which every row is bad, whatever the
    stage: malformed, failed by a pre-check, or raising in the model. More than that many in a row end the task with
    ``SPS-BUDGET``; None never does. A batch is what the scorer takes at once (thousands of rows, fewer only where rows
    are large), not one model call, so that a ``batch_size`` of 1 does not make three bad rows a breach. A model that
    raises on every row *and* on an input known to be good is a `ModelError` at once, whatever this number; one that
    still scores the known-good input has bad rows, and they are quarantined.
    """

    def __init__(
        self,
        plan: ScoringPlan,
        folder: Path,
        session: Session,
        *,
        in_worker: bool = False,
        crumb: Crumb | None = None,
    ) -> None:
        self.plan = plan
        self._crumb = crumb
        self.session = session
        self.counts = Counts()
        self._intake = Intake(self.counts)
        self._encoder = Encoder(plan, folder)
        self._assembly = Assembly(plan, folder)
        self._call_rows = plan.fixed_batch or plan.batch_size
        self._about_rows = 1  # of a call, where the plan does not say: told by the first rows
        # Something works while the next batch is read and encoded. Not where a batch may kill: the crumb must say which
        # one was looked at.
        idle = session.provider != CPU or plan.session.threads > 1
        self._reads_ahead = idle and not isinstance(session, GuardedSession)
        self._bad_streak = 0
        self._unproven = plan.prove_batch and self._call_rows != 1
        self._call = ModelCall(plan, session, self._assembly.names, in_worker=in_worker)
        self._isolation = Isolation(
            self._call,
            known_good=self._call.known_good,
            seconds_per_row=session.warm_up_s,
            batch_timeout_s=plan.on_error.batch_timeout_s,
            sizes=session.sizes,
            counts=self.counts,
            renew=None if session.provider == CPU else session.renew,
        )

    def score(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score batches.

        Parameters
        ----------
        batches : iterable of RecordBatch
            Of one schema: the columns that the plan reads and keeps, and any of the adapter's helper columns.

        Yields
        ------
        RecordBatch
            Every input row once and in order, except those that a prepare step dropped: the kept columns, the
            outputs (null for a bad row) and `err` (null for a good one), as `result_schema` says. Batches are cut and
            merged, so their number differs from the input's.

        Raises
        ------
        ModelError
            ``SPS-MODEL-RUN``, ``SPS-MODEL-OUTPUT``, ``SPS-MODEL-BATCH``: no row is to blame.
        RecordError
            ``SPS-BUDGET``: more bad rows, or more batches of only bad rows in a row, than `on_error` allows. Under
            ``policy: fail``: the code of the first bad row.
        ClusterError
            ``SPS-CLUSTER-WORKER``: the GPU context is lost.
        """
        try:
            yield from self._all_scored(batches)
        finally:
            if isinstance(self.session, GuardedSession):
                self.session.close()

    def _all_scored(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        read = self._intake.read(batches)
        first = next(read, None)
        if first is None:
            return
        self._ends = Ends(first.schema)
        size, provider = self.session.size_bytes, self.session.provider
        self._about_rows = call_rows(auto_rows(self.plan, first), size, provider)
        rows, slack, most = window_rows(self.plan, first), SLACK, most_rows(self.plan, first, size, provider)
        if self._call_rows is not None:
            rows, slack, most = self._call_rows * max(1, rows // self._call_rows), 1.0, 0
        encoded = map(self._encoded, rebatch(chain([first], read), rows, slack, most))
        with closing(ahead(encoded)) if self._reads_ahead else nullcontext(encoded) as works:
            for work in works:
                if self._reads_ahead:
                    self._begin(work.batch)
                scored = self._scored(work)
                self._mark("emit")
                yield scored
                self._mark("read")

    def _begin(self, batch: pa.RecordBatch) -> None:
        if self._crumb is not None:
            target_rows = self._call_rows or self._about_rows
            self._crumb.begin(batch.num_rows, self._ends.of(batch), target_rows, self.counts.oom_splits)

    def _mark(self, phase: str) -> None:
        if self._crumb is not None:
            self._crumb.mark(phase)

    def _encoded(self, batch: pa.RecordBatch) -> _Encoded:
        if not self._reads_ahead:
            self._begin(batch)
        faults, tally = Faults(batch.num_rows), Tally(self.session.empty)
        mark_corrupt(batch, faults)
        return _Encoded(batch, faults, self._encoder.encode(batch, faults, tally), tally)

    def _scored(self, work: _Encoded) -> pa.RecordBatch:
        batch, faults, scored = work.batch, work.faults, Scored(work.batch.num_rows)
        for group in work.groups:
            if self._crumb is not None:
                self._crumb.call()
            self._score_group(group, scored, faults)
            self._mark("post")
        columns = self._assembly.columns(scored, faults)
        found = self._verdicts(batch, faults, scored) if faults.any else {}
        self._count(work, found)
        arrays = [*(batch.column(name) for name in self.plan.keep), *columns]
        if self.plan.pointers == "all":
            arrays.append(pointers(batch))
        return pa.RecordBatch.from_arrays([*arrays, err_column(found, batch.num_rows)], names=_names(self.plan))

    def _score_group(self, group: Group, scored: Scored, faults: Faults) -> None:
        """Score the good rows of one shape."""
        for rows, feeds, most in micro_batches(group, self._call_rows, self._about_rows):
            outcome = self._isolation.score(feeds, len(rows), most)
            for piece, outputs in outcome.pieces:
                scored.add(rows[piece], outputs, {name: feeds[name][piece] for name in self._assembly.needs})
            for position, fault in outcome.faults.items():
                faults.put(rows[position : position + 1], fault)
            scored.called(rows, outcome)
            if self._unproven:
                self._prove(feeds, [row for piece, _ in outcome.pieces for row in range(piece.start, piece.stop)], most)
        scored.twins.append(group.twins)

    def _prove(self, feeds: Mapping[str, Array], scored_rows: list[int], most: int) -> None:
        """Run the batch-dependence test on the first `most` rows of which some differ; until they do, it waits."""
        windows = (scored_rows[start : start + most] for start in range(0, len(scored_rows), most))
        rows = next((rows for of in windows if len(rows := distinct_rows(feeds, of, min(MAX_ROWS, most))) > 1), None)
        if rows is None:
            return
        timeout_s, fixed, names = self.plan.on_error.batch_timeout_s, self.plan.fixed_batch, self._assembly.names
        try:
            calls = prove_independence(self._call, feeds, rows, names, timeout_s, fixed_batch=fixed)
        except SparkscoreError:
            raise
        except Exception as cause:  # boundary: rows that the model has scored, now in other company
            failure = classified(cause, feeds)
            if failure.kind in (Kind.TIMEOUT, Kind.RESOURCE, Kind.CRASH):
                return  # says nothing about the rows; the next ones are tried
            raise mixes_rows(f"{failure.error_type}: {failure.message}", fixed) from cause
        self.counts.proof_calls += calls
        self._unproven = False

    def _verdicts(self, batch: pa.RecordBatch, faults: Faults, scored: Scored) -> dict[int, Verdict]:
        bad = {row: faults.get(row) for row in np.flatnonzero(faults.bad).tolist()}
        return verdicts(batch, bad, self.plan, scored.calls())

    def _count(self, work: _Encoded, found: dict[int, Verdict]) -> None:
        n, counts, limits = work.batch.num_rows, self.counts, self.plan.on_error
        counts.rows_ok += n - len(found)
        counts.rows_bad += len(found)
        for name, cost in work.tally.costs.items():
            setattr(counts, name, getattr(counts, name) + cost)
        counts.guard_deaths = self.session.deaths if isinstance(self.session, GuardedSession) else 0
        for verdict in found.values():
            code = verdict["error_code"]
            counts.bad_by_code[code] = counts.bad_by_code.get(code, 0) + 1
            counts.sample(verdict["source_pointer"], verdict["error_code"], verdict["error_class"])
        self._bad_streak = self._bad_streak + 1 if len(found) == n else 0
        if found and limits.policy == "fail":
            raise _first_bad(next(iter(found.values())))
        if limits.max_bad_rows is not None and counts.rows_bad > limits.max_bad_rows:
            raise self._broken(f"at most {limits.max_bad_rows} bad rows", str(counts.rows_bad))
        most = limits.max_consecutive_bad_batches
        if most is not None and self._bad_streak > most:
            raise self._broken(f"at most {most} batches in a row without a good row", str(self._bad_streak))

    def _broken(self, expected: str, got: str) -> Exception:
        samples = (f"{s.code} at {s.pointer}" if s.pointer else s.code for s in self.counts.error_samples)
        return error(
            "SPS-BUDGET",
            f"Expected {expected}. Got {got}, in this task alone, such as: {'; '.join(samples)}.",
            "Mend the data, or raise on_error.max_fraction, max_rows or max_consecutive_bad_batches.",
        )


def open_scorer(
    plan: ScoringPlan,
    source: Callable[[ModelFile], str] | None = None,
    *,
    in_worker: bool = False,
    attempt: int = 0,
    crumb: Crumb | None = None,
) -> Scorer:
    """Fetch and verify the model, load it or take this process's session, and make a scorer.

    Parameters
    ----------
    plan : ScoringPlan
        The frozen plan.
    source : callable, optional
        Says where a file of the model is fetched from, when not from ``plan.model.location``.
    in_worker, crumb
        As in `Scorer`.
    attempt : int
        How often Spark has tried the task before. Under ``on_error.guard: auto`` the first attempt calls the model in
        this process, and each later one in a child, because what ended the one before may have been a row.

    Raises
    ------
    ModelError, ClusterError
        As `sparkscore.runtime.cache.local_folder` and `sparkscore.runtime.session.open_session`.
    """
    folder = local_folder(plan.model, source)
    policy = plan.on_error
    session: Session
    if policy.guard == "always" or (policy.guard == "auto" and attempt > 0):
        deaths, grace_s = policy.max_guard_deaths, policy.grace_s
        session = GuardedSession(plan.model, plan.session, folder, grace_s=grace_s, max_deaths=deaths)
    else:
        session = open_session(plan.model, plan.session, folder)
    if crumb is not None:
        crumb.loaded(session.provider, session.versions)
    return Scorer(plan, folder, session, in_worker=in_worker, crumb=crumb)


def result_schema(plan: ScoringPlan, schema: pa.Schema) -> pa.Schema:
    """Give the schema of a scorer's result.

    Parameters
    ----------
    plan : ScoringPlan
        The frozen plan.
    schema : pyarrow.Schema
        Of the batches that will be scored.

    Returns
    -------
    pyarrow.Schema
        Kept columns, outputs, the row's address under ``pointers="all"``, `err`.
    """
    kept = [schema.field(name) for name in plan.keep]
    types = [output_type(output) for output in plan.outputs]
    types += [pa.string()] if plan.pointers == "all" else []
    added = [pa.field(n, t) for n, t in zip(_names(plan)[len(kept) :], [*types, ERR_TYPE], strict=True)]
    return pa.schema([*kept, *added])


def _names(plan: ScoringPlan) -> list[str]:
    address = [POINTER_COL] if plan.pointers == "all" else []
    return [*plan.keep, *(output.column for output in plan.outputs), *address, ERR_COL]


def _first_bad(verdict: Verdict) -> Exception:
    return error(
        verdict["error_code"],
        f"Expected every row to be good under on_error.policy: fail. Got: {verdict['error_message']}",
        "Mend the row, or set on_error.policy: quarantine.",
        row=verdict["source_pointer"],
        stage=verdict["stage"],
    )
