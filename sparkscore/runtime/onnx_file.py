"""The little of an ONNX file that must be known before it is loaded: that it is one, and which files it points to.

A reader of the protobuf wire format, because the `onnx` package is neither needed nor wanted on a worker. Field numbers
are those of onnx.proto (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, FunctionProto).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparkscore.errors import error

__all__ = ["ExternalData", "external_data"]

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
_MAX_DEPTH = 32  # protobuf itself stops at 100 messages, and a subgraph is three of them
_MAX_FIELD = (1 << 29) - 1
_names_a_file = re.compile(rb"location").search  # the key without which no tensor is external


@dataclass(frozen=True)
class ExternalData:
    """Where a tensor's bytes are: a path relative to the model's folder, an offset, a length (None: to the end)."""

    location: str
    offset: int = 0
    length: int | None = None


class _MalformedError(Exception):
    """The bytes are not protobuf, or not a model."""


def external_data(path: Path, model: str = "") -> tuple[ExternalData, ...]:
    """List the external data of a model file, wherever a tensor can stand in it.

    Parameters
    ----------
    path : Path
        A local file.
    model : str, optional
        The model's URI, for the error's text.

    Returns
    -------
    tuple of ExternalData
        One for each tensor, in the order of the file; the locations are as written, and not yet to be trusted.

    Raises
    ------
    ModelError
        `SPS-MODEL-FORMAT` when the file is empty, cut short, or not an ONNX model.
    """
    found: list[ExternalData] = []
    try:
        if path.stat().st_size == 0:
            raise _MalformedError("the file is empty")
        with path.open("rb") as file:
            # Closed when the last slice of it is gone; an explicit close fails while a traceback still holds one.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _model(memoryview(data), found)
    except _MalformedError as cause:
        raise error(
            "SPS-MODEL-FORMAT",
            f"Expected an ONNX model. Got {path.name} of {path.stat().st_size} bytes: {cause}.",
            "Export the model again, or copy it again: it may be cut short.",
            model=model,
        ) from None
    return tuple(found)


def _model(data: memoryview, found: list[ExternalData]) -> None:
    has_version = has_graph = False
    for number, value in _fields(data):
        if number == 1:
            has_version = True
        elif number == 7 and isinstance(value, memoryview):
            has_graph |= _graph(value, found, 0)
        elif number == 25 and isinstance(value, memoryview):
            _function(value, found)
    if not (has_version and has_graph):
        raise _MalformedError("it has no ir_version, or no graph with nodes or outputs")


def _function(data: memoryview, found: list[ExternalData]) -> None:
    for number, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == 7:
            _node(value, found, 0)
        elif number == 11:
            _attribute(value, found, 0)


def _graph(data: memoryview, found: list[ExternalData], depth: int) -> bool:
    """Walk a graph; tell whether it has nodes or outputs."""
    if depth > _MAX_DEPTH:
        raise _MalformedError("its subgraphs are nested too deep")
    has_content = False
    for number, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        has_content |= number in (1, 12)
        if number == 1:
            _node(value, found, depth)
        elif number == 5:
            _tensor(value, found)
        elif number == 15:
            _sparse(value, found)
    return has_content


def _node(data: memoryview, found: list[ExternalData], depth: int) -> None:
    for number, value in _fields(data):
        if number == 5 and isinstance(value, memoryview):
            _attribute(value, found, depth)


def _attribute(data: memoryview, found: list[ExternalData], depth: int) -> None:
    if not _names_a_file(data):  # the numbers of a tree ensemble are millions of fields here, not packed
        return
    for number, value in _whole(data, (5, 22)):
        if not isinstance(value, memoryview):
            continue
        if number in (5, 10):
            _tensor(value, found)
        elif number in (6, 11):
            _graph(value, found, depth + 1)
        elif number in (22, 23):
            _sparse(value, found)


def _sparse(data: memoryview, found: list[ExternalData]) -> None:
    for number, value in _whole(data, (1, 2)):
        if number in (1, 2) and isinstance(value, memoryview):
            _tensor(value, found)


def _tensor(data: memoryview, found: list[ExternalData]) -> None:
    entries: dict[str, str] = {}
    external = False
    for number, value in _fields(data):
        if number == 13 and isinstance(value, memoryview):
            pair = {n: bytes(v).decode("utf-8", "replace") for n, v in _fields(value) if isinstance(v, memoryview)}
            entries[pair.get(1, "")] = pair.get(2, "")
        elif number == 14:
            external = isinstance(value, int) and value & 0xFFFFFFFF == _EXTERNAL  # protobuf cuts an enum to 32 bits
    if not external:
        return
    try:
        length = int(entries["length"]) if "length" in entries else None
        found.append(ExternalData(entries.get("location", ""), int(entries.get("offset", "0")), length))
    except ValueError:
        raise _MalformedError("an offset or length of external data is not a number") from None


def _whole(data: memoryview, tensors: tuple[int, ...]) -> Iterator[tuple[int, int | memoryview]]:
    """Walk a message whose `tensors` stand once: protobuf would merge the second into the first, behind our back."""
    seen = set()
    for number, value in _fields(data):
        if number in tensors and number in seen:
            raise _MalformedError("a tensor stands in it in two pieces")
        seen.add(number)
        yield number, value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk one message; every byte must belong to a field, so a file that is cut short is found."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if not 0 < number <= _MAX_FIELD:
            raise _MalformedError("it is not protobuf")
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _MalformedError("it is not protobuf")
        if position + length > end:
            raise _MalformedError("it is cut short, or not protobuf")
        yield number, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _MalformedError("it is cut short, or not protobuf")
