"""The error budget: how many bad rows a run may have, judged on what it has committed so far."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sparkscore.errors import error

__all__ = ["NO_BUDGET", "Totals", "assert_within", "task_limit"]

# Of `on_error`, for runs to whose end each bad row is an answer.
NO_BUDGET = {
    "policy": "quarantine",
    "max_fraction": 1.0,
    "max_rows": None,
    "min_ok_rows": 0,
    "max_consecutive_bad_batches": 2**31,
}


@dataclass(frozen=True)
class Totals:
    """Rows of committed units: of one, or of a run so far."""

    ok_rows: int = 0
    bad_rows: int = 0
    filtered_rows: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.ok_rows + other.ok_rows, self.bad_rows + other.bad_rows, self.filtered_rows + other.filtered_rows
        )

    @property
    def rows(self) -> int:
        """The rows that were read."""
        return self.judged_rows + self.filtered_rows

    @property
    def judged_rows(self) -> int:
        """The rows that a fraction of bad rows is taken of: a row that `prepare` dropped was not judged."""
        return self.ok_rows + self.bad_rows


def assert_within(totals: Totals, on_error: Any, run_id: str) -> None:
    """Stop a run whose bad rows are over the budget.

    Broken means greater than: exactly `max_fraction` passes. Fractions are not judged below `min_sample_rows`.

    Raises
    ------
    RecordError
        `SPS-BUDGET`.
    """
    bad, seen = totals.bad_rows, totals.judged_rows
    if on_error.max_rows is not None and bad > on_error.max_rows:
        raise _broken(f"at most {on_error.max_rows} bad rows (max_rows)", totals, run_id)
    if seen >= on_error.min_sample_rows and bad > _most(on_error, seen):
        raise _broken(f"at most {on_error.max_fraction:.4g} of the rows bad (max_fraction)", totals, run_id)


def task_limit(totals: Totals, on_error: Any, planned_rows: int | None) -> int | None:
    """Give the bad rows at which one task alone has certainly broken the run's budget; None when it cannot tell."""
    limits = [] if on_error.max_rows is None else [on_error.max_rows]
    if planned_rows is not None and planned_rows >= on_error.min_sample_rows:
        limits.append(_most(on_error, planned_rows))
    return max(0, min(limits) - totals.bad_rows) if limits else None


def _most(on_error: Any, rows: int) -> int:
    """The most bad rows that `max_fraction` allows, by its digits: in floats 0.29 * 1500 is below 435."""
    return int(Fraction(str(on_error.max_fraction)) * rows)


def _broken(expected: str, totals: Totals, run_id: str) -> Exception:
    fraction = totals.bad_rows / max(1, totals.judged_rows)
    return error(
        "SPS-BUDGET",
        f"Expected {expected}. Got {totals.bad_rows} of {totals.judged_rows} ({fraction:.4g}).",
        f"Look at `sparkscore quarantine summary {run_id}`; mend the data, or raise on_error and start the same run "
        "id again, which resumes.",
        run=run_id,
    )
