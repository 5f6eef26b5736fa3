"""sparkscore: ONNX models over Spark, every row scored once and accounted for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparkscore._version import __version__

if TYPE_CHECKING:
    from sparkscore.errors import ClusterError, ModelError, RecordError, SparkscoreError, SpecError
    from sparkscore.run.adapters import Model, load, score, score_local, score_udf
    from sparkscore.run.pipeline import Pipeline
    from sparkscore.run.result import Run
    from sparkscore.run.scores import read_scores

__all__ = [
    "ClusterError",
    "Model",
    "ModelError",
    "Pipeline",
    "RecordError",
    "Run",
    "SparkscoreError",
    "SpecError",
    "__version__",
    "load",
    "read_scores",
    "score",
    "score_local",
    "score_udf",
]

# Imported on first use, so that `import sparkscore` costs nothing and loads no third-party package.
_HOMES = {
    "sparkscore.errors": ("ClusterError", "ModelError", "RecordError", "SparkscoreError", "SpecError"),
    "sparkscore.run.adapters": ("Model", "load", "score", "score_local", "score_udf"),
    "sparkscore.run.pipeline": ("Pipeline",),
    "sparkscore.run.result": ("Run",),
    "sparkscore.run.scores": ("read_scores",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'sparkscore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
