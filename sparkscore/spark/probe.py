"""What one Python process knows of itself: its versions, its ONNX Runtime, the provider that is really active there.

The driver asks itself; as a task, the same question goes to the workers. Workers import this module.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from sparkscore.errors import SparkscoreError
from sparkscore.runtime import cache, files
from sparkscore.runtime.providers import installed_distributions, providers_for
from sparkscore.spec.scoring import SessionPlan

__all__ = ["FACTS_DDL", "ProbeTask", "facts"]

FACTS_DDL = "facts string"
_PACKAGES = ("numpy", "pandas", "pyarrow", "onnxruntime", "onnxruntime-gpu", "pyspark")
_HOLD_S = 0.2  # so that one worker does not answer for all

# y = Identity(x), float32 of one element: small enough to stand here, and a session like any other.
_MODEL = (
    b'\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


def facts(device: str) -> dict[str, Any]:
    """Tell what this process is.

    Parameters
    ----------
    device : str
        `model.device` of a pipeline: a session of a tiny model is opened under it.
    """
    available, active = _providers(device)
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "distributions": installed_distributions(),
        "available": available,
        "active": active,
        "versions": _versions(),
        "cache": _cache(),
    }


class ProbeTask:
    """`mapInArrow` function: each task answers with the facts of its worker, and tries to leave a receipt."""

    def __init__(self, device: str, ledger: str | None) -> None:
        self.device = device
        self.ledger = ledger

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Answer once for the partition."""
        for _ in batches:
            pass
        time.sleep(_HOLD_S)
        found = {**facts(self.device), "receipt": _receipt(self.ledger) if self.ledger else ""}
        yield pa.RecordBatch.from_arrays([pa.array([json.dumps(found)])], names=["facts"])


def _providers(device: str) -> tuple[list[str], str]:
    """Give the wheel's providers, and the one that is active in a session, or why there is none."""
    try:
        import onnxruntime

        available = list(onnxruntime.get_available_providers())
        wanted = [(name, dict(options)) for name, options in providers_for(SessionPlan(device=device), available)]  # type: ignore[arg-type]  # from a checked pipeline
        session = onnxruntime.InferenceSession(_MODEL, providers=wanted)
        return available, str(session.get_providers()[0])
    except SparkscoreError as refusal:
        return available, f"none: {refusal.message}"
    except Exception as cause:  # boundary: whatever keeps ONNX Runtime from a session is the answer
        return [], f"none: {type(cause).__name__}: {str(cause)[:200]}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cache() -> str:
    """Say why the model cache cannot be written; empty when it can."""
    try:
        with cache.fresh_folder():
            return ""
    except SparkscoreError as refusal:
        return refusal.message


def _receipt(ledger: str) -> str:
    """Say why a worker cannot write below the ledger; empty when it can."""
    uri = f"{ledger.rstrip('/')}/receipts/_doctor/{uuid.uuid4().hex}"
    try:
        files.write_bytes(uri, b"{}")
        files.delete(uri)
    except (SparkscoreError, OSError) as refusal:
        return str(refusal)[:300]
    return ""
