"""One tree of errors: a code, what was expected and got, where, and the fix, with the exit code a scheduler reads.

Every public failure of sparkscore is a `SparkscoreError`. Its code stands inside ``str(error)``, because Spark
passes worker errors on as text only; `from_text` finds it there again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

__all__ = [
    "CODES",
    "ClusterError",
    "Exit",
    "ModelError",
    "RecordError",
    "SparkscoreError",
    "SpecError",
    "error",
    "from_text",
]


class Exit(IntEnum):
    """Exit codes of every command; 128 + n stays for signals, 99 is left free for Airflow's skip code."""

    OK = 0
    FAILED = 1
    USAGE = 2
    ATTENTION = 3
    ENVIRONMENT = 4
    MODEL = 5
    DATA = 6
    STOPPED = 7
    INFRASTRUCTURE = 8
    FENCED = 9


class SparkscoreError(Exception):
    """A failure with a name.

    Parameters
    ----------
    code : str
        A key of `CODES`, e.g. ``"SPS-MODEL-INPUT"``.
    message : str
        What was expected and what was got, with real names and values (never a row's value).
    fix : str
        What the reader can do about it, as an imperative.
    **context
        Where it happened: ``run``, ``unit``, ``partition``, ``file``, ``key`` …; empty values are left out.
    """

    def __init__(self, code: str, message: str, fix: str, **context: Any) -> None:
        super().__init__(code, message, fix)
        if code not in CODES:
            raise KeyError(f"{code} is not a code of sparkscore.errors.CODES")
        self.code = code
        self.message = message
        self.fix = fix
        self.context = {k: v for k, v in context.items() if v is not None and v != ""}

    @property
    def exit_code(self) -> int:
        """The process exit code for this failure."""
        return int(CODES[self.code].exit)

    def __str__(self) -> str:
        where = ", ".join(f"{k} {v}" for k, v in self.context.items())
        return f"[{self.code}] {self.message} Fix: {self.fix}" + (f" ({where})" if where else "")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.code, self.message, self.fix, self.context)


class SpecError(SparkscoreError):
    """Your pipeline file, command line or arguments."""


class ModelError(SparkscoreError):
    """The model artefact."""


class RecordError(SparkscoreError):
    """The data: a row, a file, a budget of bad rows."""


class ClusterError(SparkscoreError):
    """The place it runs on: packages, GPU, memory, storage, other drivers."""


def _rebuild(cls: type[SparkscoreError], code: str, message: str, fix: str, context: dict[str, Any]) -> SparkscoreError:
    return cls(code, message, fix, **context)


@dataclass(frozen=True)
class Code:
    """What a code stands for: its owner in the tree, the exit code, and a title for the troubleshooting page."""

    owner: type[SparkscoreError]
    exit: Exit
    title: str


_S, _M, _R, _C = SpecError, ModelError, RecordError, ClusterError

CODES: dict[str, Code] = {
    "SPS-FAILED": Code(_C, Exit.FAILED, "an error that sparkscore has no name for"),
    # -- your file -------------------------------------------------------------------------------------
    "SPS-SPEC-FILE": Code(_S, Exit.USAGE, "the pipeline file cannot be read or parsed"),
    "SPS-SPEC-KEY": Code(_S, Exit.USAGE, "a key that the pipeline file does not know, or lacks"),
    "SPS-SPEC-VALUE": Code(_S, Exit.USAGE, "a value of the wrong type or outside its choices"),
    "SPS-SPEC-LATER": Code(_S, Exit.USAGE, "a key or feature that this version does not have yet"),
    "SPS-SPEC-VARIABLE": Code(_S, Exit.USAGE, "a ${variable} that nothing fills"),
    "SPS-SPEC-EXPRESSION": Code(_S, Exit.USAGE, "a SQL expression outside the allow-list"),
    "SPS-SPEC-COLUMN": Code(_S, Exit.USAGE, "a column that the source lacks, or that is ambiguous"),
    "SPS-SPEC-TYPE": Code(_S, Exit.USAGE, "a column whose type cannot feed the tensor"),
    "SPS-SPEC-INPUT": Code(_S, Exit.USAGE, "a graph input unfed, or one that the graph lacks"),
    "SPS-SPEC-OUTPUT": Code(_S, Exit.USAGE, "an output or selector that the graph cannot give"),
    "SPS-SPEC-COLLISION": Code(_S, Exit.USAGE, "two result columns of one name"),
    "SPS-SPEC-SINK": Code(_S, Exit.USAGE, "the sink has another schema"),
    "SPS-RUN-CHANGED": Code(_S, Exit.USAGE, "a run id used again with another pipeline"),
    "SPS-RUN-UNKNOWN": Code(_S, Exit.USAGE, "a run id that the ledger does not hold"),
    # -- the place, before anything is scored ----------------------------------------------------------
    "SPS-ENV-SOURCE": Code(_C, Exit.ENVIRONMENT, "the source is not there"),
    "SPS-ENV-EMPTY": Code(_C, Exit.ENVIRONMENT, "the source has no rows"),
    "SPS-ENV-ACCESS": Code(_C, Exit.ENVIRONMENT, "no permission"),
    "SPS-ENV-PACKAGE": Code(_C, Exit.ENVIRONMENT, "a package, jar or Java that is missing or clashes"),
    "SPS-ENV-SPARK": Code(_C, Exit.ENVIRONMENT, "no Spark session: the master or Connect server does not answer"),
    "SPS-ENV-PROVIDER": Code(_C, Exit.ENVIRONMENT, "the asked-for device is not active"),
    "SPS-ENV-SINK": Code(_C, Exit.ENVIRONMENT, "the sink cannot take exactly-once writes"),
    "SPS-ENV-KEY": Code(_C, Exit.ENVIRONMENT, "the key of encrypted payloads is missing or another one"),
    "SPS-ENV-LEDGER": Code(_C, Exit.ENVIRONMENT, "the ledger cannot be written or read"),
    # -- the order to stop -----------------------------------------------------------------------------
    "SPS-LIMIT": Code(_S, Exit.STOPPED, "a run at the limit of hours, money or rows that it was given"),
    # -- the model -------------------------------------------------------------------------------------
    "SPS-MODEL-MISSING": Code(_M, Exit.MODEL, "the model is not at its URI"),
    "SPS-MODEL-FORMAT": Code(_M, Exit.MODEL, "the file is not a loadable ONNX model"),
    "SPS-MODEL-DIGEST": Code(_M, Exit.MODEL, "the model's bytes are not the pinned ones"),
    "SPS-MODEL-ADMISSION": Code(_M, Exit.MODEL, "the model is beyond a limit, or its first load died, hung or grew"),
    "SPS-MODEL-EXTERNAL": Code(_M, Exit.MODEL, "external data outside the model's folder, missing or too short"),
    "SPS-MODEL-LINK": Code(_M, Exit.MODEL, "a symbolic link that leaves the model's folder"),
    "SPS-MODEL-TYPE": Code(_M, Exit.MODEL, "a graph input or output of a type that cannot be scored"),
    "SPS-MODEL-ENCODER": Code(_M, Exit.MODEL, "a tokenizer, vocabulary or labels file that cannot be used"),
    "SPS-MODEL-BATCH": Code(_M, Exit.MODEL, "a row's result depends on its neighbours in the batch"),
    "SPS-MODEL-RUN": Code(_M, Exit.MODEL, "the model fails on every input"),
    "SPS-MODEL-CRASH": Code(_M, Exit.MODEL, "the model ends its process, whatever the row"),
    "SPS-MODEL-OUTPUT": Code(_M, Exit.MODEL, "the model's output has another length or type than its rows"),
    "SPS-MODEL-GOLDEN": Code(_M, Exit.MODEL, "the golden rows give other outputs"),
    "SPS-MODEL-SIGNATURE": Code(_M, Exit.MODEL, "the recorded signature differs from the graph"),
    # -- the data --------------------------------------------------------------------------------------
    "SPS-ROW-NULL": Code(_R, Exit.DATA, "null in a fed column"),
    "SPS-ROW-NAN": Code(_R, Exit.DATA, "NaN in a fed column"),
    "SPS-ROW-INF": Code(_R, Exit.DATA, "infinity in a fed column"),
    "SPS-ROW-RANGE": Code(_R, Exit.DATA, "a value outside its range or the tensor's type"),
    "SPS-ROW-SHAPE": Code(_R, Exit.DATA, "a list, nested list or byte string of the wrong length"),
    "SPS-ROW-BYTES": Code(_R, Exit.DATA, "a cell larger than max_bytes"),
    "SPS-ROW-CATEGORY": Code(_R, Exit.DATA, "a category that the vocabulary lacks"),
    "SPS-ROW-DECODE": Code(_R, Exit.DATA, "an image, text or line that cannot be decoded"),
    "SPS-ROW-LENGTH": Code(_R, Exit.DATA, "a text longer than max_tokens"),
    "SPS-ROW-OUTPUT": Code(_R, Exit.DATA, "NaN, infinity or an out-of-range value in an output"),
    "SPS-ROW-MODEL": Code(_R, Exit.DATA, "a row on which the model raises"),
    "SPS-ROW-TIMEOUT": Code(_R, Exit.DATA, "a row on which the model does not return"),
    "SPS-ROW-OOM": Code(_R, Exit.DATA, "a single row that does not fit in memory"),
    "SPS-ROW-CRASH": Code(_R, Exit.DATA, "a row on which the model ends its process"),
    "SPS-BUDGET": Code(_R, Exit.DATA, "more bad rows than on_error allows"),
    "SPS-NO-OK-ROWS": Code(_R, Exit.DATA, "rows, but no good one"),
    "SPS-BALANCE": Code(_R, Exit.DATA, "rows planned and rows committed differ"),
    "SPS-DATA-FILE": Code(_R, Exit.DATA, "a corrupt input file"),
    "SPS-DATA-GONE": Code(_R, Exit.DATA, "an input file that vanished after the plan"),
    "SPS-DATA-DRIFT": Code(_R, Exit.DATA, "an input file that changed after the plan"),
    "SPS-DATA-COLUMN": Code(_R, Exit.DATA, "a needed column absent from, or of another type in, a file"),
    "SPS-DATA-SOURCE": Code(_R, Exit.DATA, "a row of a database, a view or the like that Spark cannot read"),
    "SPS-PREPARE": Code(_R, Exit.DATA, "a prepare expression that raised"),
    "SPS-LEDGER-GAP": Code(_R, Exit.DATA, "committed units that are not what the ledger says"),
    "SPS-TXN-SKIPPED": Code(_R, Exit.DATA, "a commit that Delta skipped as already done"),
    # -- the place, while scoring ----------------------------------------------------------------------
    "SPS-CLUSTER-WORKER": Code(_C, Exit.INFRASTRUCTURE, "a worker or executor died"),
    "SPS-CLUSTER-TIMEOUT": Code(_C, Exit.INFRASTRUCTURE, "a model load or call that never came back"),
    "SPS-CLUSTER-STALLED": Code(_C, Exit.INFRASTRUCTURE, "a unit that finishes no batch"),
    "SPS-CLUSTER-STORAGE": Code(_C, Exit.INFRASTRUCTURE, "storage failed beyond the retries"),
    "SPS-CLUSTER-CONFLICT": Code(_C, Exit.INFRASTRUCTURE, "commit conflicts beyond the retries"),
    "SPS-CLUSTER-LEASE": Code(_C, Exit.INFRASTRUCTURE, "another run keeps the table for too long"),
    "SPS-FENCED": Code(_C, Exit.FENCED, "another attempt owns the run"),
}


def error(code: str, message: str, fix: str, **context: Any) -> SparkscoreError:
    """Build the error of the class that owns `code`."""
    return CODES[code].owner(code, message, fix, **context)


# As a traceback ends; a code elsewhere in a foreign text may be out of a row.
_IN_TEXT = re.compile(
    r"^sparkscore\.errors\.\w+: \[(SPS-[A-Z-]+)\] (.*?) Fix: (.*?)(?= \(([^()]*)\)\s*$|$)", re.MULTILINE
)


def from_text(text: str) -> SparkscoreError | None:
    """Find a sparkscore error at the end of a traceback in a foreign text, such as Spark's wrapping of a worker's.

    The last one in the text is the root: tracebacks print causes first, then what was raised from them.
    """
    found = None
    for match in _IN_TEXT.finditer(text):
        code, message, fix, where = match.groups()
        if code in CODES:
            context = dict(part.split(" ", 1) for part in (where or "").split(", ") if " " in part)
            found = error(code, message, fix, **context)
    return found
