"""An MLflow package's `MLmodel`, read as data: the ONNX file that it names, and the signature recorded with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sparkscore.errors import error
from sparkscore.runtime import files
from sparkscore.runtime.loading import Signature, TensorInfo

__all__ = ["Package", "assert_recorded", "read_package"]

_MAX_BYTES = 1 << 20
_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)  # what odd data makes of our reading
_TEXT = "tag:yaml.org,2002:str"
_STRINGS = ("object", "str", "string")  # what MLflow has called numpy's strings


@dataclass(frozen=True)
class Package:
    """The ONNX file's path in the package, and name and dtype of the tensors that its signature names."""

    main: str
    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()


def read_package(root: str, uri: str) -> Package:
    """Read the `MLmodel` of the package at `root`; nothing of the package runs, and no other flavour counts.

    Raises
    ------
    ModelError
        `SPS-MODEL-FORMAT` when it does not name an ONNX file inside the package.
    """
    document = _document(f"{root}/MLmodel")
    data = _text_at(document, "flavors", "onnx", "data")
    path = PurePosixPath(data) if data is not None and data.isprintable() else PurePosixPath()
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise error(
            "SPS-MODEL-FORMAT",
            "Expected an MLflow package whose flavors.onnx.data names a file inside it. "
            f"Got {'no such text, or two' if data is None else repr(data[:200])}.",
            "Log the model with mlflow.onnx; sparkscore runs no other flavour and no code of a package.",
            model=uri,
        )
    return Package(str(path), _tensors(document, "inputs"), _tensors(document, "outputs"))


def assert_recorded(package: Package, signature: Signature, uri: str) -> None:
    """Hold the tensors that a package's signature names against the graph.

    A signature of columns, or of one tensor without a name, says nothing about the graph's tensors. A recorded float64
    stands for a float32 input too: MLflow casts it.

    Raises
    ------
    ModelError
        `SPS-MODEL-SIGNATURE` for a name that the graph lacks, or has with another dtype.
    """
    for kind, recorded, actual in (
        ("input", package.inputs, signature.inputs),
        ("output", package.outputs, signature.outputs),
    ):
        dtypes = {tensor.name: tensor.dtype for tensor in actual}
        for name, dtype in recorded:
            if dtypes.get(name) not in (dtype, *(["float32"] if kind == "input" and dtype == "float64" else [])):
                raise error(
                    "SPS-MODEL-SIGNATURE",
                    f"Expected the {kind} {name!r} of dtype {dtype}, as the MLmodel's signature records. "
                    f"Got the graph's {kind}s {_listed(actual)}.",
                    "Register the model again with the signature of this graph: one of the two is another model's.",
                    model=uri,
                )


def _document(uri: str) -> Any:
    """Give the YAML's tree of nodes, of which nothing is made: no tag acts, no alias unfolds, no number is read."""
    import yaml

    text = next(files.read_chunks(uri, _MAX_BYTES + 1), b"")  # never all of a file that claims to be this small
    try:
        return yaml.compose(text, yaml.SafeLoader) if len(text) <= _MAX_BYTES else None
    except (yaml.YAMLError, *_UNREADABLE):
        return None


def _text_at(node: Any, *keys: str) -> str | None:
    """Give the text at a path of keys, each of which stands once."""
    import yaml

    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [value for name, value in pairs if isinstance(name, yaml.ScalarNode) and name.value == key]
        if len(found) != 1:
            return None
        node = found[0]
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.tag == _TEXT else None


def _tensors(document: Any, kind: str) -> tuple[tuple[str, str], ...]:
    """Give the named tensors of one side of the signature, which is JSON in a string; no signature names none."""
    try:
        entries = json.loads(_text_at(document, "signature", kind) or "[]")
        specs: Iterable[Any] = [e for e in entries if e["type"] == "tensor" and e.get("name") is not None]
        return tuple((str(e["name"]), _dtype(str(e["tensor-spec"]["dtype"]))) for e in specs)
    except _UNREADABLE:
        return ()


def _dtype(name: str) -> str:
    return "str" if name in _STRINGS or name.startswith("<U") else name


def _listed(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{t.name!r} of {t.dtype}" for t in tensors)
