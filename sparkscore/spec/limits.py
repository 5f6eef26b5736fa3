"""Where a run stops by itself: hours, money and rows, and the prices that money is counted with."""

from __future__ import annotations

from pydantic import model_validator

from sparkscore.spec.fields import AboveZero, Amount, Closed, Positive, refused

__all__ = ["Limits", "Prices"]


class Prices(Closed):
    """What is paid, in USD. None is shipped: they differ by place, contract and day."""

    core_hour: Amount = 0.0  # of each core that the session scores with
    hour: Amount = 0.0  # of the run whatever its cores: the driver, a cluster that is there anyway
    request: Amount = 0.0  # to the object store


class Limits(Closed):
    """What a run may take over all its attempts; None is no limit."""

    hours: AboveZero | None = None
    usd: AboveZero | None = None
    rows: Positive | None = None
    prices: Prices | None = None

    @model_validator(mode="after")
    def _priced(self) -> Limits:
        if self.usd is not None and self.prices is None:
            fix = "Write what you pay, for example `prices: {core_hour: 0.05}`."
            message = "Key 'prices' is missing: usd is counted with them"
            raise refused("SPS-SPEC-KEY", message, fix, "limits.prices")
        return self
