"""Files packed into units: the grain of resume, budget and limits."""

from __future__ import annotations

from collections.abc import Sequence

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

    Unit 0 is a pilot: the smallest file alone, so that a broken pipeline shows early and costs little. The others
    hold at most 5 % of the rows, at least 10,000. Files without rows are left out. A run of at most 10,000 rows is
    one unit.

    Parameters
    ----------
    looks : sequence of Look
        The surveyed files.
    max_units : int
        8 for a Delta table read by file-path filter, where each unit scans the table's file list again.
    """
    full = [look for look in looks if _weight(look) > 0]
    total = sum(_weight(look) for look in full)
    if not full:
        return ()
    if total <= MIN_ROWS or max_units == 1 or len(full) == 1:
        return (_unit(0, full),)
    target = max(MIN_ROWS, min(MAX_FRACTION * total, YOUNG_DALY_ROWS), total / max(1, max_units - 1))
    pilot = min(full, key=_weight)
    groups: list[list[Look]] = [[pilot]]
    size = target  # the pilot is full as it is
    for look in full:
        if look is pilot:
            continue
        if size + _weight(look) > target or len(groups[-1]) >= MAX_FILES:
            groups.append([])
            size = 0.0
        groups[-1].append(look)
        size += _weight(look)
    return tuple(_unit(seq, group) for seq, group in enumerate(_at_most(groups, max_units)))


def _at_most(groups: list[list[Look]], max_units: int) -> list[list[Look]]:
    """Join neighbours until there are few enough; next-fit packing may leave up to twice the aimed number."""
    while len(groups) > max_units:
        joined = [groups[i] + (groups[i + 1] if i + 1 < len(groups) else []) for i in range(1, len(groups), 2)]
        groups = [groups[0], *joined]
    return groups


def _weight(look: Look) -> float:
    return look.size_bytes / _BYTES_PER_ROW if look.rows is None else look.rows


def _unit(seq: int, looks: Sequence[Look]) -> Unit:
    found = tuple(InputFile(look.path, look.size_bytes, look.mtime_ms, look.rows) for look in looks)
    return Unit(seq, unit_id(found), found)
