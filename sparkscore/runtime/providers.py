"""A device policy turned into the execution providers to ask ONNX Runtime for; no GPU is needed to compute it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata

from sparkscore.errors import SparkscoreError, error
from sparkscore.spec.scoring import SessionPlan

__all__ = [
    "CPU",
    "CUDA",
    "TENSORRT",
    "Providers",
    "installed_distributions",
    "lost_context",
    "only_distribution",
    "providers_for",
]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_BY_DEVICE = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

_SHARED = 0.9  # of a GPU's memory; the rest is for contexts and libraries

# After one of these every further call of the process fails, whatever it is given.
_LOST_CONTEXT = re.compile(
    r"CUDA failure (?:700|719)\b|illegal memory access|unspecified launch failure", re.IGNORECASE
)

Providers = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

# Wheels that install the one module `onnxruntime`: two of them overwrite each other's files.
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-training",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-qnn",
    "ort-nightly",
    "ort-nightly-gpu",
)


def providers_for(plan: SessionPlan, available: Sequence[str], gpu_bytes: int | None = None) -> Providers:
    """List the providers to ask for, best first, with their options as pairs of text sorted by name.

    Parameters
    ----------
    plan : SessionPlan
        `device` decides the providers, `precision` the number formats, `providers` overrides single options.
    available : sequence of str
        ``onnxruntime.get_available_providers()``: those that the wheel was built with.
    gpu_bytes : int, optional
        Memory of the task's GPU, where several tasks share it: each may take its part of nine tenths. More than that is
        then an error of one task, which halves its batch, and not of the others.

    Raises
    ------
    ClusterError
        ``SPS-ENV-PROVIDER``: the device needs a provider that this wheel does not have.

    Notes
    -----
    Defaults and their sources are in performance.md §6: ``EXHAUSTIVE`` convolution search re-tunes for every shape
    (PaddleX PR 5057), a copy stream of its own may race (onnxruntime 4829), TF32 is a silent cast.

    Examples
    --------
    >>> providers_for(SessionPlan(device="auto"), ["CPUExecutionProvider"])
    (('CPUExecutionProvider', ()),)
    """
    device = plan.device
    if device == "auto":
        device = "cuda" if CUDA in available else "cpu"
    if _BY_DEVICE[device] not in available:
        raise provider_missing(device, _BY_DEVICE[device], f"a wheel with {', '.join(available)}")
    names = {"cpu": (CPU,), "cuda": (CUDA, CPU), "tensorrt": (TENSORRT, CUDA, CPU)}[device]
    given = {_BY_DEVICE.get(name.lower(), name): dict(options) for name, options in plan.providers}
    part = {CUDA: {"gpu_mem_limit": str(int(_SHARED * gpu_bytes / plan.gpu_tasks))}} if gpu_bytes else {}
    merged = (
        (name, {**_defaults(name, plan.precision), **part.get(name, {}), **given.get(name, {})}) for name in names
    )
    return tuple((name, tuple(sorted(options.items()))) for name, options in merged)


def lost_context(text: str) -> bool:
    """Tell whether an exception's text says that this process has lost its GPU for good."""
    return bool(_LOST_CONTEXT.search(text))


def _defaults(name: str, precision: str) -> dict[str, str]:
    if name == CUDA:
        return {
            "device_id": "0",  # counted inside CUDA_VISIBLE_DEVICES, which the caller sets to the task's GPU
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "do_copy_in_default_stream": "1",
            "use_tf32": "1" if precision == "tf32" else "0",
        }
    if name == TENSORRT:
        return {"device_id": "0", "trt_fp16_enable": "1" if precision == "fp16" else "0"}
    return {}


def provider_missing(device: str, wanted: str, got: str) -> SparkscoreError:
    """Build the error for a device that is asked for and not active."""
    return error(
        "SPS-ENV-PROVIDER",
        f"model.device: {device} expects the active provider {wanted}. Got {got}.",
        "Install onnxruntime-gpu with its CUDA and cuDNN on every executor, or set model.device: cpu, or auto.",
        device=device,
    )


def installed_distributions(path: Iterable[str] | None = None) -> dict[str, str]:
    """Find the installed wheels of ONNX Runtime: name -> version, searched in `path` (default: ``sys.path``)."""
    found: dict[str, str] = {}
    for name in _DISTRIBUTIONS:
        for distribution in metadata.distributions(name=name, path=sys.path if path is None else list(path)):
            found.setdefault(name, distribution.version)
    return found


def only_distribution(found: dict[str, str]) -> None:
    """Check that at most one wheel gives the module `onnxruntime` (none: built from source).

    Raises
    ------
    ClusterError
        ``SPS-ENV-PACKAGE``: two wheels, of which the last installed has overwritten parts of the other.
    """
    if len(found) > 1:
        names = " and ".join(f"{name} {version}" for name, version in found.items())
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected one wheel that gives the module onnxruntime. Got {names}.",
            f"pip uninstall {' '.join(found)}, then install the one that you want.",
        )
