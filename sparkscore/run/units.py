"""Files packed into units: the grain of resume, budget and limits."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkscore.ledger.input_files import FILES, FileList
from sparkscore.ledger.plans import Unit

__all__ = ["pack", "weight_rows"]

MIN_ROWS = 10_000
MAX_FRACTION = 0.05
# Young/Daly: sqrt(2 x commit cost 2 s x time between failures 10 h) is about 6 minutes of work; at the 100,000 rows/s
# that an uncalibrated run is taken to score, 38 million rows.
YOUNG_DALY_ROWS = 38_000_000
MAX_UNITS = 10_000
MAX_FILES = 50_000
_BYTES_PER_ROW = 100  # of formats that do not say how many rows they hold


def pack(looks: pa.Table, max_units: int = MAX_UNITS) -> tuple[Unit, ...]:
    """Pack files, in their order, into units; a file is never cut.

    Unit 0 is a pilot: the smallest file alone, so that a broken pipeline shows early and costs little. The others are
    of even size, about 5 % of the rows or less and at least 10,000. Files without rows are left out. A run of at most
    10,000 rows is one unit.

    Parameters
    ----------
    looks : pyarrow.Table
        The surveyed files: the columns `FILES`, others are ignored.
    max_units : int
        8 for a Delta table read by file-path filter, where each unit scans the table's file list again.
    """
    files = looks.select(FILES.names)
    weights = weight_rows(files)
    if not weights.all():
        files, weights = files.filter(weights > 0), weights[weights > 0]
    if not len(weights):
        return ()
    total = float(weights.sum())
    if total <= MIN_ROWS or max_units == 1 or len(weights) == 1:
        return (Unit.of(0, FileList(files)),)
    pilot = int(weights.argmin())
    rest = pa.concat_tables([files.slice(0, pilot), files.slice(pilot + 1)])
    aim = max(MIN_ROWS, min(MAX_FRACTION * total, YOUNG_DALY_ROWS))
    shares = np.maximum(np.delete(weights, pilot) / aim, 1 / MAX_FILES)  # of a unit
    ends = np.cumsum(shares)
    count = min(math.ceil(ends[-1]), max_units - 1)
    # A file belongs to the unit in which its middle falls, so no unit is off by more than half a file at each end.
    places = ((ends - shares / 2) / ends[-1] * count).astype(np.int64)
    starts = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
    groups = [files.slice(pilot, 1), *(rest.slice(a, b - a) for a, b in pairwise(starts))]
    return tuple(Unit.of(seq, FileList(group)) for seq, group in enumerate(groups))


def weight_rows(files: pa.Table) -> Any:
    """Give the rows of each file, ndarray of float64; of one that cannot tell, a guess by its bytes."""
    guessed = pc.divide(pc.cast(files["size_bytes"], pa.float64()), float(_BYTES_PER_ROW))
    return pc.coalesce(pc.cast(files["rows"], pa.float64()), guessed).to_numpy()
