"""`Pipeline`: a pipeline file ready to run, check and peek at."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkscore.run.batch import Progress, run_batch
from sparkscore.run.result import Run
from sparkscore.spark.sessions import active_session
from sparkscore.spec import pipeline as spec

if TYPE_CHECKING:
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

    def run(
        self,
        spark: SparkSession | None = None,
        run_id: str | None = None,
        *,
        take_over: bool = False,
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
        session = spark or active_session()
        return run_batch(
            session, self.spec, run_id or new_run_id(self.spec.name), take_over=take_over, progress=progress, say=say
        )


def new_run_id(name: str) -> str:
    """Make a run id: pipeline name, UTC time, six random hex digits."""
    return f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
