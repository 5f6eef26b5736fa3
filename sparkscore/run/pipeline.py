"""`Pipeline`: a pipeline file ready to run, check and peek at."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkscore.errors import error
from sparkscore.ledger.plans import Plan
from sparkscore.run.batch import Progress, run_batch
from sparkscore.run.check import CheckReport, check_pipeline
from sparkscore.run.estimate import Estimate, estimate_pipeline, priced
from sparkscore.run.inspection import peek_pipeline
from sparkscore.run.requeue import requeue_run
from sparkscore.run.result import Run
from sparkscore.spark.sessions import active_session
from sparkscore.spec import pipeline as spec

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

__all__ = ["Pipeline", "new_run_id"]


class Pipeline:
    """A checked pipeline file.

    Examples
    --------
    >>> run = Pipeline.load("conf/pipelines/flights.yaml").run(spark)  # doctest: +SKIP
    """

    def __init__(self, checked: spec.Pipeline) -> None:
        self.spec = checked

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], sets: Mapping[str, str] | None = None) -> Pipeline:
        """Read a pipeline file (or its document as a mapping).

        Parameters
        ----------
        source : str, Path or mapping
        sets : mapping of str to str, optional
            ``--set`` of the command line: ``{"dir": "/data"}`` fills ``${dir}``, ``{"model.device": "cuda"}``
            overrides a key.

        Raises
        ------
        SpecError
            One for the first thing wrong, with the key's path.
        """
        return cls(spec.load_pipeline(source, sets))

    @classmethod
    def recorded(cls, plan: Plan, sets: Mapping[str, str] | None = None) -> Pipeline:
        """Take a run's pipeline back from its plan, with `sets` for the keys that may change between attempts.

        Raises
        ------
        SpecError
            `SPS-RUN-CHANGED` for a plan of a version that recorded no pipeline; otherwise as `load`.
        """
        if "spec" not in plan.header:
            raise error(
                "SPS-RUN-CHANGED",
                f"Expected the pipeline of {plan.run_id} in its plan. Got a plan of version "
                f"{plan.header['code_version']}, without it.",
                "Give the pipeline file.",
                run=plan.run_id,
            )
        return cls(spec.load_pipeline(plan.header["spec"], sets, Path(plan.header["folder"])))

    def run(
        self,
        spark: SparkSession | None = None,
        run_id: str | None = None,
        *,
        take_over: bool = False,
        fail_on_quarantine: bool = False,
        progress: Progress | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Run:
        """Score the input once into the sink. The same run id again resumes, or is a no-op after success.

        Parameters
        ----------
        spark : SparkSession, optional
            Default: the active one. It is neither stopped nor reconfigured.
        run_id : str, optional
            Default: ``<name>-<UTC time>-<6 hex>``.
        take_over : bool
            Do not wait for the heartbeat of an attempt that did not close.
        fail_on_quarantine : bool
            The exit code of a run that succeeded is 3 when it has bad rows.
        progress, say : callable, optional
            Receive progress after each unit, and lines for a person.

        Returns
        -------
        Run

        Raises
        ------
        SparkscoreError
            Whatever ended the run; its `exit_code` is what the command line exits with.
        """
        return run_batch(
            spark or active_session(),
            self.spec,
            run_id or new_run_id(self.spec.name),
            take_over=take_over,
            fail_on_quarantine=fail_on_quarantine,
            progress=progress,
            say=say,
        )

    def requeue(
        self,
        run_id: str,
        spark: SparkSession | None = None,
        *,
        take_over: bool = False,
        fail_on_quarantine: bool = False,
        progress: Progress | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Run:
        """Score the open bad rows of a run again with this pipeline, mended, into the same sink, each once.

        Parameters
        ----------
        run_id : str
            The run whose bad rows they are. The replay's own id is ``<run_id>.requeue-<n>``.
        spark, take_over, fail_on_quarantine, progress, say
            As in `run`.

        Returns
        -------
        Run
            The replay; where no row is open, the one that ended last, and nothing is scored.

        Raises
        ------
        SparkscoreError
            As `run`; `SPS-DATA-GONE` when the source of every open row is gone.
        """
        return requeue_run(
            spark or active_session(),
            self.spec,
            run_id,
            take_over=take_over,
            fail_on_quarantine=fail_on_quarantine,
            progress=progress,
            say=say,
        )

    def check(self, spark: SparkSession | None = None) -> CheckReport:
        """Check the pipeline against its input, model and sink, and score the first 1,000 rows on the driver.

        Writes nothing.

        Raises
        ------
        SparkscoreError
            The first thing that would stop a run, with the code that the run would end with.
        """
        return check_pipeline(spark or active_session(), self.spec)

    def estimate(
        self,
        spark: SparkSession | None = None,
        prices: Mapping[str, Any] | None = None,
        *,
        recalibrate: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> Estimate:
        """Predict what a run would take on this session, from a probe of at most a minute. The sink is left alone.

        Parameters
        ----------
        spark : SparkSession, optional
            Default: the active one.
        prices : mapping of str to float, optional
            USD of a ``core_hour``, an ``hour`` and a ``request``. Default: `limits.prices` of the pipeline.
        recalibrate : bool
            Probe again, where the ledger has an earlier probe of this model, machine and kind of input.
        say : callable, optional
            Receives lines for a person.

        Raises
        ------
        SparkscoreError
            The first thing that would stop a run at its plan or its first units, with the run's own code.
        """
        given = None if prices is None else priced(prices)
        return estimate_pipeline(spark or active_session(), self.spec, given, recalibrate=recalibrate, say=say)

    def peek(self, spark: SparkSession | None = None, rows: int = 10) -> pa.Table:
        """Score the first rows on the driver and give them: kept columns, outputs, and `err`, null for a good row.

        Writes nothing.
        """
        return peek_pipeline(spark or active_session(), self.spec, rows)


def new_run_id(name: str) -> str:
    """Make a run id: pipeline name, UTC time, six random hex digits."""
    return f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
