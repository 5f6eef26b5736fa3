"""What is wrong with each row of a batch: the first fault of a row counts, and no message ever holds a row's value."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_MESSAGE", "Fault", "Faults", "error_class", "scrubbed"]

MAX_MESSAGE = 500

# Taxonomy ids of reliability.md §10 by error code; every pre-check is a breach of the feature contract, O3.
_CLASSES = {
    "SPS-ROW-OUTPUT": "O4",
    "SPS-ROW-MODEL": "P1",
    "SPS-ROW-TIMEOUT": "P8",
    "SPS-ROW-OOM": "P7",
    "SPS-ROW-CRASH": "P6",
}


@dataclass(frozen=True)
class Fault:
    """Why one row is bad: the fields of the `err` struct that do not depend on where the row stands."""

    stage: str
    code: str
    error_class: str
    error_type: str | None
    message: str


class Faults:
    """The faults of a batch of `n` rows. A row keeps its first one."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._faults: list[Fault] = []
        self._index: NDArray[np.int32] | None = None  # made with the first fault: clean batches pay nothing

    def add(
        self,
        rows: NDArray[np.bool_] | NDArray[np.integer] | Iterable[int],
        code: str,
        message: str,
        stage: str = "pre",
        error_type: str | None = None,
    ) -> None:
        """Mark rows as bad.

        Parameters
        ----------
        rows : ndarray of bool, shape (n,), or positions
            The rows; those that have a fault already keep it.
        code : str
            An ``SPS-ROW-…`` code.
        message : str
            Names of columns and limits, never a row's value; cut at 500 characters.
        stage : str
            read | decode | pre | infer | post.
        error_type : str, optional
            Exception class name, where one was raised.
        """
        self.put(rows, Fault(stage, code, error_class(code), error_type, message[:MAX_MESSAGE]))

    def put(self, rows: NDArray[np.bool_] | NDArray[np.integer] | Iterable[int], fault: Fault) -> None:
        """Mark rows as bad with a ready-made fault."""
        chosen = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows))
        positions = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        if not positions.size:
            return
        if self._index is None:
            self._index = np.full(self.n, -1, dtype=np.int32)
        new = positions[self._index[positions] < 0]
        if new.size:
            self._index[new] = len(self._faults)
            self._faults.append(fault)

    def follow(self, rows: NDArray[np.int64], of: NDArray[np.int64]) -> None:
        """Give good rows the faults of other ones, where those have any."""
        if self._index is not None:
            self._index[rows] = self._index[of]

    @property
    def any(self) -> bool:
        """Whether some row is bad."""
        return bool(self._faults)

    @property
    def bad(self) -> NDArray[np.bool_]:
        """Which rows are bad: ndarray of bool, shape (n,), a copy."""
        return np.zeros(self.n, dtype=np.bool_) if self._index is None else self._index >= 0

    def get(self, row: int) -> Fault:
        """Give the fault of a bad row.

        Raises
        ------
        KeyError
            When the row is good.
        """
        index = -1 if self._index is None else int(self._index[row])
        if index < 0:
            raise KeyError(row)
        return self._faults[index]


def error_class(code: str) -> str:
    """Give the failure taxonomy's id of a row code.

    Examples
    --------
    >>> error_class("SPS-ROW-NULL"), error_class("SPS-ROW-TIMEOUT")
    ('O3', 'P8')
    """
    return _CLASSES.get(code, "O3")


_ORT_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_VALUES = re.compile(
    r"(?P<node>Name:'[^']*')"
    r"|'[^']*'|\"[^\"]*\"|`[^`]*`"  # quoted text may be a string of the row
    r"|[\w.+-]+@[\w.-]+"
    r"|\S+://\S+"
    r"|(?<![\w.])[-+]?\d[\w.+-]*"  # a digit inside a word, as in float32, is a name
    r"|[-+]?\b(?:nan|inf)\b"
)


def scrubbed(text: str, values: Iterable[str] = ()) -> str:
    """Cut a foreign message to what may be stored: its first line, without numbers, quoted text, URLs and `values`.

    ONNX Runtime's own code at the start and the name of the graph's node stay.

    Parameters
    ----------
    text : str
        The text of a foreign exception.
    values : iterable of str
        String cells of the failing row.

    Examples
    --------
    >>> scrubbed("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Gather node. Name:'g' idx=99 of 'Ann'")
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Gather node. Name:'g' idx=# of #"
    """
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    prefix = _ORT_CODE.match(line)
    head = prefix.group() if prefix else ""
    body = line[len(head) :]
    for value in sorted({v for v in values if v}, key=len, reverse=True):
        edge = r"\b" if len(value) < 4 else ""
        body = re.sub(f"{edge}{re.escape(value)}{edge}", "#", body)
    body = _VALUES.sub(lambda match: match.group("node") or "#", body)
    return (head + body)[:MAX_MESSAGE]
