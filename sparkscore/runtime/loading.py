"""A verified model folder turned into what ONNX Runtime makes of it: a signature, a session, or an error of ours."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime import providers as eps
from sparkscore.runtime.onnx_file import external_data
from sparkscore.runtime.weights import shared_weights
from sparkscore.spec.scoring import SessionPlan

__all__ = [
    "DTYPES",
    "Signature",
    "TensorInfo",
    "inference_session",
    "onnxruntime",
    "read_signature",
    "signature_of",
    "versions",
]

_MAX_TEXT = 1000
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

DTYPES = {
    "tensor(bool)": "bool",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(string)": "str",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output: name, dtype, and shape with None for free dimensions, batch axis included.

    `dtype` is a numpy name, 'str' for strings, or ONNX Runtime's own text for a type that cannot be scored, such as
    ``tensor(bfloat16)`` or ``seq(map(int64,tensor(float)))``.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Signature:
    """What the graph asks for and gives, in its own order; inputs with an initialiser of their own are left out."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def read_signature(folder: Path, main: str) -> Signature:
    """Read what the graph asks for and gives, on the CPU, without keeping a session.

    Parameters
    ----------
    folder : Path
        The model's local folder.
    main : str
        Path of the ONNX file in it.

    Raises
    ------
    ModelError
        As `open_session`.
    """
    plan = SessionPlan(weights="lean")  # what never runs needs no packing
    return signature_of(inference_session(folder, main, plan, ((eps.CPU, ()),), main, optimise=False))


def versions() -> dict[str, str]:
    """Versions of what a call's result depends on: python, numpy, onnxruntime."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, "numpy": np.__version__, "onnxruntime": onnxruntime().__version__}


@functools.cache
def onnxruntime() -> Any:
    """The module, once the installed wheels are known to be one; they do not change under a running process."""
    try:
        import onnxruntime
    except ImportError as cause:
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected the package onnxruntime in this Python. Got: {cause}.",
            "pip install onnxruntime (or onnxruntime-gpu) there.",
        ) from cause
    eps.only_distribution(eps.installed_distributions())
    return onnxruntime


def inference_session(
    folder: Path, main: str, plan: SessionPlan, asked: eps.Providers, name: str, *, optimise: bool = True
) -> Any:
    """Load from bytes where the model is one file: then ONNX Runtime opens no other file, whatever the graph says.

    Where the node holds that file's weights apart, it opens those. On a GPU it would copy them there, so it need not.
    """
    ort = onnxruntime()
    options = _options(plan, optimise=optimise)
    if any(provider == eps.CUDA for provider, _ in asked) and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds CUDA and cuDNN in NVIDIA's wheels
    try:
        weights = shared_weights(folder, main) if asked[0][0] == eps.CPU else None
        if weights is not None and weights.file.exists():
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights.file.parent.absolute()))
            source: str | bytes = weights.graph
        else:
            source = str(folder / main) if external_data(folder / main) else (folder / main).read_bytes()
        session = ort.InferenceSession(
            source,
            sess_options=options,
            providers=[provider for provider, _ in asked],
            provider_options=[dict(settings) for _, settings in asked],
            enable_fallback=0,
        )
    except SparkscoreError:
        raise
    except Exception as cause:  # boundary: ONNX Runtime's load errors have no common class
        raise _load_error(cause, name, asked[0][0]) from cause
    session.disable_fallback()
    return session


def _options(plan: SessionPlan, *, optimise: bool) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4  # at 3 it prints what its exceptions say, with the row's values, to the worker's log
    # Spinning keeps cores busy after each run and gains no throughput (performance.md §5).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if plan.weights == "lean":
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _load_error(cause: Exception, name: str, provider: str) -> SparkscoreError:
    text = str(cause).strip()[:_MAX_TEXT].rstrip(".")  # it repeats names, which a file may choose
    lower = text.lower()
    if isinstance(cause, FileNotFoundError) or type(cause).__name__ == "NoSuchFile":
        return error("SPS-MODEL-MISSING", f"Expected the ONNX file of {name}. Got: {text}.", "Check model.uri.")
    if "external" in lower:
        return error(
            "SPS-MODEL-EXTERNAL",
            f"Expected the external data of {name} beside it, whole. Got: {text}.",
            "Publish the model again with all of its files, in one folder.",
        )
    if "type error" in lower or type(cause).__name__ == "NotImplemented":
        return error(
            "SPS-MODEL-TYPE",
            f"Expected types that {provider} can run in {name}. Got: {text}.",
            "Export the model with other types, or another opset.",
        )
    if "cuda" in lower or "tensorrt" in lower or "provider" in lower:
        return error(
            "SPS-ENV-PROVIDER",
            f"Expected {provider} to start for {name}. Got: {text}.",
            "Mend the driver, the CUDA libraries or model.providers, or set model.device: cpu.",
        )
    if isinstance(cause, MemoryError) or "bad_alloc" in lower or "failed to allocate" in lower:
        return error(
            "SPS-CLUSTER-WORKER",
            f"Expected memory enough to load {name}. Got: {text}.",
            "Give the executors more memory, or run fewer tasks on each.",
        )
    return error(
        "SPS-MODEL-FORMAT",
        f"Expected {name} to be a model that ONNX Runtime {onnxruntime().__version__} loads. Got: {text}.",
        "Export it again; check the opset, and that the file is whole.",
    )


def signature_of(inner: Any) -> Signature:
    """Read a session's inputs and outputs."""
    return Signature(_infos(inner.get_inputs()), _infos(inner.get_outputs()))


def _infos(nodes: Sequence[Any]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(n.name, DTYPES.get(n.type, n.type), tuple(map(_dimension, n.shape or ()))) for n in nodes)


def _dimension(size: object) -> int | None:
    return size if isinstance(size, int) and size >= 0 else None
