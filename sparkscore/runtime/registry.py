"""Where a model URI points to: registry names resolved once to a version, everything else as it is.

MLflow is a registry and a store of artifacts here, nothing more: a package's `MLmodel` is read as data, and no code of it
runs. Never parse a LoggedModel's `source`: it is ``models:/m-<id>``, not a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkscore.errors import error
from sparkscore.runtime import files

__all__ = ["Resolved", "onnx_file_of", "resolve"]

_MAX_MLMODEL_BYTES = 1 << 20
_MODELS = re.compile(r"models:/(?P<name>[^@]+?)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


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
    """
    if uri.startswith("models:"):
        return _registered(uri, scratch)
    if uri.startswith("runs:"):
        return Resolved(_downloaded(uri, scratch), uri, None, readable=False)
    local = files.local_path(uri)
    location = str(local.absolute()) if local is not None else uri
    return Resolved(location, uri, None, readable=not uri.startswith("hdfs:"))


def onnx_file_of(root: str, uri: str) -> tuple[str, str]:
    """Give the folder and name of an MLflow package's ONNX file, from its `MLmodel` read as data."""
    import yaml

    text = files.read_bytes(f"{root}/MLmodel")
    try:
        document: Any = yaml.safe_load(text) if len(text) <= _MAX_MLMODEL_BYTES else None
        data = document["flavors"]["onnx"]["data"]
    except (yaml.YAMLError, KeyError, TypeError):
        data = None
    if not isinstance(data, str) or data.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", data):
        raise error(
            "SPS-MODEL-FORMAT",
            f"Expected an MLflow package with an ONNX flavour inside its folder. Got flavors.onnx.data {data!r}.",
            "Log the model with mlflow.onnx; sparkscore runs no other flavour and no code of a package.",
            model=uri,
        )
    folder, _, name = f"{root}/{data}".rpartition("/")
    if "." not in name:  # the data is a folder: the model keeps its external data beside it
        inside = [f.uri for f in files.list_files(f"{root}/{data}") if f.uri.endswith(".onnx")]
        if len(inside) == 1:
            folder, _, name = inside[0].rpartition("/")
    return folder, name


def _registered(uri: str, scratch: Path) -> Resolved:
    match = _MODELS.fullmatch(uri)
    if match is None:
        raise error(
            "SPS-MODEL-MISSING",
            f"Expected models:/name@alias or models:/name/version. Got {uri}.",
            "Name an alias or a version; stages are gone from MLflow 3.",
        )
    name, alias, version = match.group("name", "alias", "version")
    if alias is not None:
        version = str(_asked(uri, lambda mlflow: mlflow.MlflowClient().get_model_version_by_alias(name, alias).version))
    pinned = f"models:/{name}/{version}"
    return Resolved(_downloaded(pinned, scratch), pinned, version, readable=False)


def _downloaded(uri: str, scratch: Path) -> str:
    folder = scratch / "download"
    folder.mkdir()
    return str(_asked(uri, lambda mlflow: mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))))


def _asked(uri: str, question: Any) -> Any:
    """Ask MLflow; its refusal becomes an error of ours."""
    try:
        import mlflow
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException
    except ImportError as cause:
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected the package mlflow-skinny to resolve {uri}. Got none.",
            'pip install "sparkscore[mlflow]"',
        ) from cause
    try:
        return question(mlflow)
    except (MlflowException, OSError) as cause:
        raise error(
            "SPS-MODEL-MISSING",
            f"Expected {uri} in the registry at {mlflow.get_registry_uri()}. Got: {str(cause).splitlines()[0][:200]}",
            "Check the name, the alias or version, and MLFLOW_TRACKING_URI.",
            model=uri,
        ) from cause
