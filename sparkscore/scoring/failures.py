"""What a failed model call says: the row's fault, too little memory, a hang, or a model that cannot run at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from numpy.typing import NDArray

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.faults import Fault, error_class, scrubbed
from sparkscore.runtime.guard import ChildDied, RemoteError
from sparkscore.runtime.providers import lost_context
from sparkscore.runtime.watchdog import CallTimeout

__all__ = ["Failure", "Kind", "classified", "model_error"]

# ONNX Runtime has no exception class for memory (onnxruntime 16307): the text is all there is.
_RESOURCE = re.compile(
    r"BFCArena|failed to allocate memory|CUDA failure 2\b|CUDA_ERROR_OUT_OF_MEMORY|out of memory|bad_alloc",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"Required inputs|Missing Input|Invalid (?:feed )?input name|Invalid output name|Unexpected input data type|"
    r"Invalid rank for input|is not a registered function",
    re.IGNORECASE,
)
_MODEL_TYPES = {
    *("InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented", "ModelRequiresCompilation"),
    *("ImportError", "ModuleNotFoundError"),
}


class Kind(Enum):
    """How isolation goes on after a failed call."""

    DATA = "SPS-ROW-MODEL"
    TIMEOUT = "SPS-ROW-TIMEOUT"
    RESOURCE = "SPS-ROW-OOM"
    CRASH = "SPS-ROW-CRASH"
    MODEL = "SPS-MODEL-RUN"
    STICKY = "SPS-CLUSTER-WORKER"


@dataclass(frozen=True)
class Failure:
    """A failed call: its kind, the foreign exception's class name and scrubbed text, and the exception itself."""

    kind: Kind
    error_type: str
    message: str
    cause: Exception

    @property
    def fault(self) -> Fault:
        """The fault of a row that fails alone."""
        code = self.kind.value
        # A shape or index that a node refuses is a breach of the feature contract, whatever raised it.
        class_id = "O3" if self.error_type == "InvalidArgument" else error_class(code)
        if isinstance(self.cause, ChildDied):
            class_id = self.cause.error_class
        return Fault("infer", code, class_id, self.error_type, self.message)


def classified(cause: Exception, feeds: Mapping[str, NDArray[Any]]) -> Failure:
    """Tell failed calls apart.

    Parameters
    ----------
    cause : Exception
        What the call raised.
    feeds : mapping of ndarray
        What it was fed with; its strings are taken out of the message when it was one row.
    """
    text = str(cause)
    name = cause.error_type if isinstance(cause, ChildDied | RemoteError) else type(cause).__name__
    if isinstance(cause, CallTimeout):
        kind = Kind.TIMEOUT
    elif isinstance(cause, ChildDied):
        kind = Kind.CRASH
    elif lost_context(text):
        kind = Kind.STICKY
    elif isinstance(cause, MemoryError) or _RESOURCE.search(text):
        kind = Kind.RESOURCE
    elif name in _MODEL_TYPES or _MODEL.search(text):
        kind = Kind.MODEL
    else:
        kind = Kind.DATA
    return Failure(kind, name, scrubbed(text, _strings(feeds)), cause)


def model_error(failure: Failure, why: str) -> SparkscoreError:
    """Build the error that ends a unit because no row is to blame."""
    if failure.kind is Kind.STICKY:
        return error(
            "SPS-CLUSTER-WORKER",
            f"Expected a usable GPU context. Got {failure.error_type}: {failure.message}",
            "The GPU context is lost for this process; the task is tried again in a new one.",
        )
    if failure.kind is Kind.CRASH:
        return error(
            "SPS-MODEL-CRASH",
            f"Expected the model to score {why}. Got {failure.error_type}: {failure.message}",
            "The model ends its process whatever the row: check its libraries, and the memory of the host.",
        )
    return error(
        "SPS-MODEL-RUN",
        f"Expected the model to score {why}. Got {failure.error_type}: {failure.message}",
        "Run `sparkscore check` on the pipeline; compare the model's inputs with `inputs`, and its opset and operators "
        "with the installed ONNX Runtime.",
    )


def _strings(feeds: Mapping[str, NDArray[Any]]) -> list[str]:
    # Only a row that fails alone keeps its message; of a whole batch it would be a search through every cell.
    arrays = [a for a in feeds.values() if a.dtype == object and len(a) == 1]
    return [str(cell) for array in arrays for cell in array.ravel()]
