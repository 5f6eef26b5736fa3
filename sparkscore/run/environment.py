"""Which software a driver runs on, as the ledger records it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from sparkscore._version import __version__

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["installed", "versions"]

_PACKAGES = ("numpy", "pyarrow", "pandas", "onnxruntime", "onnxruntime-gpu", "pyspark", "delta-spark")


def versions(spark: SparkSession) -> dict[str, Any]:
    """Give the versions and ids that a run's first event records."""
    return {
        "library_versions": {"python": platform.python_version(), "sparkscore": __version__, **installed()},
        "spark_version": spark.version,
        "spark_app_id": spark.conf.get("spark.app.id", None),
    }


def installed() -> dict[str, str]:
    """Give the versions of the packages that scores depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
