"""Outputs of model calls, in whatever parts they came, put together to result columns in the order of the rows."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkscore.runtime.arrow import numbers
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.outputs import OutputColumn
from sparkscore.scoring.isolation import Outcome
from sparkscore.spec.scoring import ScoringPlan

__all__ = ["Assembly", "Scored"]

Array = NDArray[Any]


class Scored:
    """What the model gave for a batch of `n` rows: parts of outputs, and how often each row was called.

    `twins` are rows, and for each the one whose outputs, faults and calls are its own too.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.rows: list[NDArray[np.int64]] = []
        self.outputs: list[list[Array]] = []
        self.feeds: list[dict[str, Array]] = []
        self.twins: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._calls: list[tuple[NDArray[np.int64], Outcome]] = []

    def add(self, rows: NDArray[np.int64], outputs: list[Array], feeds: dict[str, Array]) -> None:
        """Add the outputs of some rows, and those of their feeds that a step reads (`Assembly.needs`)."""
        self.rows.append(rows)
        self.outputs.append(outputs)
        self.feeds.append(feeds)

    def called(self, rows: NDArray[np.int64], outcome: Outcome) -> None:
        """Note the calls that some rows took."""
        self._calls.append((rows, outcome))

    def calls(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Give the rows of each row's model batch, the largest call that it took part in, and the number of its calls;
        0 where it never reached the model: two of shape (n,).
        """
        batch_rows, tries = np.zeros((2, self.n), dtype=np.int32)
        for rows, outcome in self._calls:
            batch_rows[rows], tries[rows] = outcome.calls_of_rows()
        for rows, of in self.twins:
            batch_rows[rows], tries[rows] = batch_rows[of], tries[of]
        return batch_rows, tries


class Assembly:
    """Builds the result columns of a plan.

    `names` are the graph outputs that they are made of, each once; `needs` the graph inputs that a step reads too.
    """

    def __init__(self, plan: ScoringPlan, folder: Path) -> None:
        self.names = tuple(dict.fromkeys(output.output for output in plan.outputs))
        self._columns = [OutputColumn(output, folder) for output in plan.outputs]
        self.needs = tuple(dict.fromkeys(name for column in self._columns for name in column.needs))

    def columns(self, scored: Scored, faults: Faults) -> list[pa.Array]:
        """Build the columns of a batch, and mark rows whose output breaks a rule.

        Parameters
        ----------
        scored : Scored
            The parts; rows that are in none are bad already.
        faults : Faults
            Of the batch; gets ``SPS-ROW-OUTPUT`` at stage post.

        Returns
        -------
        list of pyarrow.Array
            One for each output of the plan, of length n, null in bad rows.
        """
        rows = np.concatenate([*scored.rows, np.empty(0, np.int64)]) if len(scored.rows) != 1 else scored.rows[0]
        built = [self._built(i, rows, scored, faults) for i in range(len(self._columns))] if len(rows) else []
        for twins, of in scored.twins:
            faults.follow(twins, of)
        if not built:
            return [pa.nulls(scored.n, column.arrow_type) for column in self._columns]
        if len(rows) == scored.n and _ascending(rows) and not faults.any:
            return built
        index = np.full(scored.n, -1, dtype=np.int64)
        index[rows] = np.arange(len(rows))
        for twins, of in scored.twins:
            index[twins] = index[of]
        index[faults.bad] = -1
        taken = numbers(index, index < 0)
        return [array.take(taken) for array in built]

    def _built(self, i: int, rows: NDArray[np.int64], scored: Scored, faults: Faults) -> pa.Array:
        column, needs = self._columns[i], self._columns[i].needs
        position = self.names.index(column.plan.output)
        parts = [
            (outputs[position], *(feeds[name] for name in needs))
            for outputs, feeds in zip(scored.outputs, scored.feeds, strict=True)
        ]
        arrays, start = [], 0
        for output, *fed in _joined(parts):
            array, wrong = column.build(output, dict(zip(needs, fed, strict=True)))
            if wrong is not None and wrong.any():
                message = f"Output column '{column.plan.column}' is NaN, infinite, out of its range, or has no label."
                faults.add(rows[start : start + len(output)][wrong], "SPS-ROW-OUTPUT", message, stage="post")
            arrays.append(array)
            start += len(output)
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


def _ascending(rows: NDArray[np.int64]) -> bool:
    return bool((rows[1:] > rows[:-1]).all())


def _joined(parts: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
    """Join neighbours whose rows have one shape: groups of rows of other shapes may give other ones."""
    if len(parts) == 1:
        return parts
    groups = [list(group) for _, group in groupby(parts, key=lambda part: [(a.shape[1:], a.dtype) for a in part])]
    return [tuple(np.concatenate(arrays) for arrays in zip(*group, strict=True)) for group in groups]
