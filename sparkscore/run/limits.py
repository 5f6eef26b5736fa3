"""What a run has taken over all its attempts, held against its limits before each unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.fold import committed
from sparkscore.ledger.plans import Unit
from sparkscore.run.took import hours_of
from sparkscore.spec.limits import Limits, Prices

__all__ = ["Meter", "usd_of"]


def usd_of(prices: Prices, hours: float, cores: int, requests: float = 0.0) -> float:
    """Give what hours on so many cores, and requests to the store, cost."""
    return hours * (cores * prices.core_hour + prices.hour) + requests * prices.request


class Meter:
    """What a run has taken so far.

    Parameters
    ----------
    limits : Limits
    events : sequence of dict
        Of all attempts, as far as the ledger shows them.
    units : sequence of Unit
        Of the plan.
    attempt : int
        The one at hand. Its time runs from its first event, or from now where a stale listing hides it.
    cores, requests : callable
        Give the session's cores, and the requests of a unit; asked only where money is counted.
    """

    def __init__(
        self,
        limits: Limits,
        events: Sequence[dict[str, Any]],
        units: Sequence[Unit],
        *,
        attempt: int,
        cores: Callable[[], int],
        requests: Callable[[Unit], float],
    ) -> None:
        self._limits = limits
        self._prices = limits.prices or Prices()
        self._cores, self._requests_of = cores, requests
        own = (datetime.fromisoformat(e["at"]) for e in events if e["attempt"] == attempt)
        self._since = next(own, datetime.now(UTC))
        self._before = {number: hours for number, hours in hours_of(events).items() if number < attempt}
        self._cores_before = {e["attempt"]: e["cores"] for e in events if e.get("cores")}
        done = committed(events)
        self._walls_s = [e["wall_ms"] / 1000 for e in done.values() if e["event"] == "unit_committed"]
        self._requests = sum(self._priced_requests(units[seq]) for seq in done)

    @property
    def hours(self) -> float:
        """Hours of the run so far, over all attempts."""
        return sum(self._before.values()) + self._own_hours

    @property
    def _own_hours(self) -> float:
        return (datetime.now(UTC) - self._since).total_seconds() / 3600

    def took(self, unit: Unit, wall_s: float) -> None:
        """Add a unit of this attempt."""
        self._walls_s.append(wall_s)
        self._requests += self._priced_requests(unit)

    def assert_room(self, unit: Unit, unit_rows: int | None, rows: Callable[[], int]) -> None:
        """Refuse to begin a unit that would pass a limit: by its rows, and by what units take, the median so far.

        Parameters
        ----------
        unit : Unit
            The next one.
        unit_rows : int or None
            Its rows; None where they are not known before they are read.
        rows : callable
            Gives the rows of the units that are committed.

        Raises
        ------
        SpecError
            `SPS-LIMIT`.
        """
        limits = self._limits
        more = median(self._walls_s) / 3600 if self._walls_s else 0.0
        if limits.rows is not None:
            done = rows()
            _assert_under("rows", limits.rows, done, done + (unit_rows or 1), unit)
        if limits.hours is not None:
            _assert_under("hours", limits.hours, self.hours, self.hours + more, unit)
        if limits.usd is not None:
            spent, requests = self._usd(), self._priced_requests(unit)
            _assert_under("usd", limits.usd, spent, spent + usd_of(self._prices, more, self._cores(), requests), unit)

    def _usd(self) -> float:
        prices, cores = self._prices, self._cores()
        earlier = self._before.items()
        before = sum(usd_of(prices, hours, self._cores_before.get(number, cores)) for number, hours in earlier)
        return before + usd_of(prices, self._own_hours, cores, self._requests)

    def _priced_requests(self, unit: Unit) -> float:
        return self._requests_of(unit) if self._prices.request else 0.0


def _assert_under(name: str, limit: float, spent: float, then: float, unit: Unit) -> None:
    if then > limit:
        raise _reached(name, limit, spent, then, unit)


def _reached(name: str, limit: float, spent: float, then: float, unit: Unit) -> SparkscoreError:
    return error(
        "SPS-LIMIT",
        f"Expected at most {limit:g} {name} (limits.{name}) over all attempts of the run. Got {spent:,.6g}, and about "
        f"{then:,.6g} with unit {unit.seq}, which was not begun.",
        f"The committed units stay. Raise limits.{name} above {then:,.6g} and start the same run id again; it goes on "
        "from there.",
        limit=name,
    )
