"""Files packed into units: the grain of resume, budget and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, groupby

from sparkscore.ledger.plans import InputFile, Unit, unit_id
from sparkscore.spark.survey import Look

__all__ = ["pack"]

MIN_ROWS = 10_000
MAX_FRACTION = 0.05
# Young/Daly: sqrt(2 x commit cost 2 s x time between failures 10 h) is about 6 minutes of work; at the 100,000 rows/s
# that an uncalibrated run is taken to score, 38 million rows.
YOUNG_DALY_ROWS = 38_000_000
MAX_UNITS = 10_000
MAX_FILES = 50_000
_BYTES_PER_ROW = 100  # of formats that do not say how many rows they hold


def pack(looks: Sequence[Look], max_units: int = MAX_UNITS) -> tuple[Unit, ...]:
    """Pack files, in their order, into units; a file is never cut.

    Unit 0 is a pilot: the smallest file alone, so that a broken pipeline shows early and costs little. The others are
    of even size, about 5 % of the rows or less and at least 10,000. Files without rows are left out. A run of at most
    10,000 rows is one unit.

    Parameters
    ----------
    looks : sequence of Look
        The surveyed files.
    max_units : int
        8 for a Delta table read by file-path filter, where each unit scans the table's file list again.
    """
    full = [look for look in looks if _weight(look) > 0]
    if not full:
        return ()
    total = sum(_weight(look) for look in full)
    if total <= MIN_ROWS or max_units == 1 or len(full) == 1:
        return (_unit(0, full),)
    pilot = min(full, key=_weight)
    rest = [look for look in full if look is not pilot]
    aim = max(MIN_ROWS, min(MAX_FRACTION * total, YOUNG_DALY_ROWS))
    shares = [max(_weight(look) / aim, 1 / MAX_FILES) for look in rest]  # of a unit
    whole = sum(shares)
    count = min(math.ceil(whole), max_units - 1)
    # A file belongs to the unit in which its middle falls, so no unit is off by more than half a file at each end.
    middles = (end - share / 2 for end, share in zip(accumulate(shares), shares, strict=True))
    placed = groupby(zip(rest, middles, strict=True), key=lambda pair: int(pair[1] / whole * count))
    groups = [[pilot], *([look for look, _ in group] for _, group in placed)]
    return tuple(_unit(seq, group) for seq, group in enumerate(groups))


def _weight(look: Look) -> float:
    return look.size_bytes / _BYTES_PER_ROW if look.rows is None else look.rows


def _unit(seq: int, looks: Sequence[Look]) -> Unit:
    found = tuple(InputFile(look.path, look.size_bytes, look.mtime_ms, look.rows) for look in looks)
    return Unit(seq, unit_id(found), found)
