"""Where a model's URI points to: a registry's names resolved once to a version, everything else as it is.

MLflow is a registry and a store of artifacts here, nothing more: no code of a package runs. A version's `source` is
never parsed: in MLflow 3 it is ``models:/m-<id>``, not a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime import files
from sparkscore.spec.fields import carries_secret

__all__ = ["Resolved", "resolve", "workers_read"]

_MODELS = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))")
_RUNS = re.compile(r"runs:/[^/]+/.+")
_CREDENTIALS = re.compile(r"//[^/\s]*@")  # of a registry's URI, such as postgresql://user:secret@host
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND", "BAD_REQUEST")
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")


@dataclass(frozen=True)
class Resolved:
    """A model's place: `location` as the driver reads it, `uri` with the version in place of an alias.

    `readable` says whether workers can read `location` themselves, or the driver must hand the files out.
    """

    location: str
    uri: str
    version: str | None
    readable: bool


def resolve(uri: str, scratch: Path) -> Resolved:
    """Resolve a URI; a registry's artifacts are downloaded into `scratch`.

    Raises
    ------
    ModelError
        `SPS-MODEL-MISSING` for a name, alias, version or run that the registry does not have.
    ClusterError
        `SPS-ENV-PACKAGE` without MLflow, `SPS-ENV-ACCESS` or `SPS-CLUSTER-STORAGE` when the registry refuses or fails.
    SpecError
        `SPS-SPEC-VALUE` for a URI with a password in it, which is not repeated.
    """
    if carries_secret(uri):
        wanted = "Expected a model's URI without a secret, got one that carries a credential."
        raise error("SPS-SPEC-VALUE", wanted, "Take it out; the machine's own identity is used.")
    if uri.startswith("models:"):
        return _registered(uri, scratch)
    if uri.startswith("runs:"):
        if not _RUNS.fullmatch(uri):
            raise _misspelt(uri, "runs:/<run id>/<path of the artifact>")
        return Resolved(_downloaded(uri, scratch), uri, None, readable=False)
    local = files.local_path(uri)
    location = str(local.absolute()) if local is not None else uri
    return Resolved(location, location, None, readable=workers_read(uri))


def workers_read(uri: str) -> bool:
    """Tell whether a worker reads a URI with nothing but pyarrow."""
    return not uri.lower().startswith("hdfs:")


def _registered(uri: str, scratch: Path) -> Resolved:
    match = _MODELS.fullmatch(uri)
    if match is None:
        raise _misspelt(uri, "models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, version = match.group("name", "alias", "version")
    if alias is not None:
        version = str(_asked(uri, lambda mlflow: mlflow.MlflowClient().get_model_version_by_alias(name, alias).version))
    pinned = f"models:/{name}/{version}"
    return Resolved(_downloaded(pinned, scratch), pinned, version, readable=False)


def _misspelt(uri: str, expected: str) -> SparkscoreError:
    return error("SPS-MODEL-MISSING", f"Expected {expected}. Got {uri}.", "Correct model.uri.")


def _downloaded(uri: str, scratch: Path) -> str:
    folder = scratch / "download"
    folder.mkdir()
    return str(_asked(uri, lambda mlflow: mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))))


def _asked(uri: str, question: Callable[[Any], Any]) -> Any:
    """Ask MLflow; its refusal becomes an error of ours."""
    try:
        import mlflow
        import mlflow.artifacts
        from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException as NoStore
    except ImportError as cause:
        raise _package_missing(uri, cause.name or "mlflow", "sparkscore[mlflow]") from cause
    try:
        return question(mlflow)
    except ImportError as cause:  # the client of an artifact store
        raise _package_missing(uri, str(cause), cause.name or "mlflow") from cause
    except NoStore as cause:  # what the skinny wheel says of a SQL registry
        raise _package_missing(uri, "a store for MLFLOW_TRACKING_URI", "sqlalchemy alembic") from cause
    except Exception as cause:  # boundary: artifact stores raise their clients' own errors
        code = getattr(cause, "error_code", "RESOURCE_DOES_NOT_EXIST" if isinstance(cause, FileNotFoundError) else "")
        raise _refused(uri, code, cause, mlflow.get_registry_uri()) from cause


def _refused(uri: str, code: str, cause: Exception, registry: str) -> SparkscoreError:
    text = (str(cause).splitlines() or [""])[0][:200]
    got = f"Expected {uri} in the registry {registry}. Got {code or type(cause).__name__}: {text}."
    got = _CREDENTIALS.sub("//", got)
    if code in _NOT_THERE:
        return error("SPS-MODEL-MISSING", got, "Check the name, the alias or version, and MLFLOW_TRACKING_URI.")
    if code in _DENIED:
        return error("SPS-ENV-ACCESS", got, "Give this user the permission, or the MLFLOW_TRACKING_* environment.")
    return error("SPS-CLUSTER-STORAGE", got, "Look at the registry and its artifact store; try again.")


def _package_missing(uri: str, missing: str, install: str) -> SparkscoreError:
    return error(
        "SPS-ENV-PACKAGE",
        f"Expected the packages that MLflow needs to resolve {uri}. Got no {missing}.",
        f'pip install "{install}"' if "[" in install else f"pip install {install}",
    )
