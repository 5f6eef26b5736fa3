"""The seam between the steps of a run and the kind of its sink: what a sink must do so that each row is in it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.plans import Unit
from sparkscore.spark.commit import Commit, Committed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["Line", "gap", "skipped"]


class Line(Protocol):
    """One run's way into its sink. A unit's commit is one atomic step, and whoever repeats it changes nothing."""

    app_id: str | None  # of the units' Delta transactions; None where a unit is committed otherwise

    def write(self, frame: DataFrame, commit: Commit) -> None:
        """Write a unit's rows and commit them, unless the unit is committed already."""

    def find(self, unit: Unit, *, again: bool = False) -> Commit | None:
        """Find the one commit of a unit, None when there is none; `again` says that it is made after later units."""

    def standing(self, known: Mapping[int, Commit]) -> tuple[dict[int, Commit], list[int]]:
        """Tell which units the sink holds by its own record, and which of the `known` ones it has lost."""

    def count(self, commits: Sequence[Commit]) -> dict[str, Committed]:
        """Count the committed rows of units, by unit id."""

    def assert_held(self, rows: Mapping[int, int]) -> None:
        """Prove that the sink still holds so many rows of each unit."""

    def rows(self) -> DataFrame | None:
        """Read the run's committed rows, with `_ss`; None when there are none yet."""

    def publish(self, rows: Mapping[int, int], attempt: int) -> None:
        """Show the run, of which every unit is proved, to readers; repeated, it changes nothing."""

    def assert_discardable(self) -> None:
        """Refuse to discard what the sink does not give back."""

    def discard(self) -> bool:
        """Take the run's rows back, and let no driver bring one; False when the sink is not there."""

    def sweep(self) -> None:
        """Remove what no reader needs after the run's end."""


def gap(expected: str, got: str, run_id: str) -> SparkscoreError:
    """The error of a sink that does not hold the units that the ledger says it holds."""
    return error(
        "SPS-LEDGER-GAP",
        f"Expected the sink to hold {expected}. Got {got}.",
        "Another writer removed or overwrote commits: look at DESCRIBE HISTORY of the sink, then start a new run id.",
        run=run_id,
    )


def skipped(expected: str, got: str, run_id: str) -> SparkscoreError:
    """The error of a unit that is not in the sink though its write went through."""
    return error(
        "SPS-TXN-SKIPPED",
        f"Expected {expected}. Got {got}.",
        "The run id was used before with another plan on this sink; start a new run id.",
        run=run_id,
    )
