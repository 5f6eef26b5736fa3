"""A session as the one call that isolation makes: padded to the length that the graph or the device wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.runtime.providers import CPU, CUDA
from sparkscore.runtime.session import Session
from sparkscore.scoring.isolation import check_lengths
from sparkscore.spec.scoring import ScoringPlan, Text

__all__ = ["ModelCall", "padded_rows"]

Array = NDArray[Any]


class ModelCall:
    """Calls the model on n rows and gives n rows back.

    Parameters
    ----------
    plan : ScoringPlan
        Its fixed batch, batch size and row shapes.
    session : Session
        The loaded model.
    names : sequence of str
        The graph outputs to compute.
    in_worker : bool
        Whether this process may be ended when a call cannot be.
    """

    def __init__(self, plan: ScoringPlan, session: Session, names: Sequence[str], *, in_worker: bool) -> None:
        self._session = session
        self._names = tuple(names)
        self._fixed = plan.fixed_batch
        self._most = plan.fixed_batch or plan.batch_size
        texts = any(isinstance(part, Text) for entry in plan.inputs for part in entry.parts)
        # On a GPU each new shape is tuned anew (`performance.md` §6). Calls of texts differ in their length anyway, and
        # CUDA bears it: no encoder of text has convolutions to tune.
        self._pads_rows = session.provider != CPU and not (texts and session.provider == CUDA)
        self._exit_after_s = plan.on_error.grace_s if in_worker else None
        ranks = {info.name: len(info.shape) for info in session.signature.inputs}
        self._as_they_are = self._fixed is None and not self._pads_rows
        # A graph without an axis for rows takes the row itself, one a call.
        self._bare = plan.fixed_batch == 1 and all(ranks[entry.name] == len(entry.row_shape) for entry in plan.inputs)

    def __call__(self, feeds: Mapping[str, Array], timeout_s: float | None) -> list[Array]:
        """Score rows; whatever the session raises passes through."""
        if self._as_they_are:
            return self._session.run(feeds, self._names, timeout_s, self._exit_after_s)
        n = len(next(iter(feeds.values())))
        if self._bare:
            row = {name: array[0] for name, array in feeds.items()}
            return [np.asarray(a)[None] for a in self._session.run(row, self._names, timeout_s, self._exit_after_s)]
        length = padded_rows(n, self._fixed, self._most, pads=self._pads_rows)
        padded = {name: _padded(array, length) for name, array in feeds.items()} if length > n else feeds
        outputs = self._session.run(padded, self._names, timeout_s, self._exit_after_s)
        check_lengths(outputs, length)
        return [array[:n] for array in outputs]

    @property
    def known_good(self) -> dict[str, Array] | None:
        """The session's warm-up input with an axis for rows, if the model scored it."""
        if self._session.warm_up is None or not self._session.warm_up_ok:
            return None
        return {name: array[None] if self._bare else array for name, array in self._session.warm_up.items()}


def padded_rows(n: int, fixed: int | None, most: int | None, *, pads: bool) -> int:
    """Give the rows that a call of `n` rows is padded to, with copies of its last row.

    A fixed batch axis decides; else a call that `pads` has a power of two, or the batch size asked for.

    Examples
    --------
    >>> padded_rows(5, None, None, pads=False), padded_rows(5, 16, 16, pads=False)
    (5, 16)
    >>> [padded_rows(n, None, 100, pads=True) for n in (1, 5, 90, 100)]
    [1, 8, 100, 100]
    """
    if fixed is not None:
        return fixed
    if not pads:
        return n
    length = 1 << (n - 1).bit_length()
    return length if most is None else max(n, min(length, most))


def _padded(array: Array, length: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], length - len(array), axis=0)])
