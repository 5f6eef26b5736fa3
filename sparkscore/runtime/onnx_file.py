"""The little of an ONNX file that must be known before it is loaded: the files, operators and sizes that it asks for.

A reader of the protobuf wire format, because the `onnx` package is neither needed nor wanted on a worker. Field numbers
are those of onnx.proto (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, FunctionProto).
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparkscore.errors import error

__all__ = ["ExternalData", "GraphFacts", "external_data", "read_graph", "spans"]

MAX_NODES = 100_000
_MAX_FIELDS = 10_000_000  # about 10 s of reading; runs of unpacked numbers count once
_MAX_DEPTH = 32  # protobuf itself stops at 100 messages, and a subgraph is three of them
_MAX_RANK = 64
_MAX_SHAPE_BYTES = 2048  # a constant that says a shape is small
_MAX_FIELD = (1 << 29) - 1
_HUGE_ELEMENTS = 1 << 28  # 1 GiB of float32
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
_INT64 = 7  # TensorProto.DataType, as are the next two
_FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}
_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}  # least bits of an element: (u)int4, float4, (u)int2; a varint else
_BRANCHES = ("If", "Loop", "Scan")
_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
# A forest's numbers are millions of unpacked fields: fixed32 and fixed64 of any number, and varints of the fields 5, 7,
# 8 and 11, none of which is read here.
_RUN = {
    **{key: re.compile(rb"(?:" + re.escape(bytes([key])) + rb"[\s\S]{4})++").match for key in range(0x0D, 0x80, 8)},
    **{key: re.compile(rb"(?:" + re.escape(bytes([key])) + rb"[\s\S]{8})++").match for key in range(0x09, 0x80, 8)},
    **{
        key: re.compile(rb"(?:" + re.escape(bytes([key])) + rb"[\x80-\xff]{0,9}+[\x00-\x7f])++").match
        for key in (0x28, 0x38, 0x40, 0x58)
    },
}


@dataclass(frozen=True)
class ExternalData:
    """Where a tensor's bytes are: a path relative to the model's folder, an offset, a length (None: to the end)."""

    location: str
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True)
class GraphFacts:
    """What a model file says about itself, functions and subgraphs included.

    Attributes
    ----------
    external : tuple of ExternalData
        One for each tensor, in the order of the file; the locations are as written, and not yet to be trusted.
    nodes : int
        Nodes of all graphs.
    operators, functions : frozenset of (domain, name)
        The operators that nodes call, and those that the file defines itself.
    flags : tuple of str
        What makes a run long, large or blank, and is no fault by itself: ``Loop``, ``huge Expand``, ``NaN in weights``
    """

    external: tuple[ExternalData, ...]
    nodes: int
    operators: frozenset[tuple[str, str]]
    functions: frozenset[tuple[str, str]]
    flags: tuple[str, ...]


class _MalformedError(Exception):
    """The bytes are not protobuf, or not a model."""


class _TooLargeError(Exception):
    """The model is beyond a limit of admission."""


def external_data(path: Path, model: str = "") -> tuple[ExternalData, ...]:
    """List the external data of a model file, wherever a tensor can stand in it; raises as `read_graph`."""
    return read_graph(path, model).external


def read_graph(path: Path, model: str = "", *, weights: bool = False) -> GraphFacts:
    """Read a model file's facts without loading it.

    Parameters
    ----------
    path : Path
        A local file.
    model : str, optional
        The model's URI, for the error's text.
    weights : bool
        Look for NaN in the weights of this file too, at about 1 GB a second.

    Raises
    ------
    ModelError
        `SPS-MODEL-FORMAT` when the file is empty, cut short, or not an ONNX model; `SPS-MODEL-ADMISSION` for more than
        100,000 nodes.
    """
    reader = _Reader(weights)
    try:
        if path.stat().st_size == 0:
            raise _MalformedError("the file is empty")
        with path.open("rb") as file:
            # Closed when the last slice of it is gone; an explicit close fails while a traceback still holds one.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader.model(memoryview(data))
    except _MalformedError as cause:
        raise error(
            "SPS-MODEL-FORMAT",
            f"Expected an ONNX model. Got {path.name} of {path.stat().st_size} bytes: {cause}.",
            "Export the model again, or copy it again: it may be cut short.",
            model=model,
        ) from None
    except _TooLargeError as cause:
        raise error(
            "SPS-MODEL-ADMISSION",
            f"Expected a model of at most {MAX_NODES:,} nodes. Got {path.name} with {cause}.",
            "Do not load this file unless you know who made it; simplify the graph, or split it.",
            model=model,
        ) from None
    return reader.facts()


def spans(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Walk a message of a file that `read_graph` has read: each field's key, its start, that of its value, its end."""
    position = 0
    while position < len(message):
        start = position
        key, position = _varint(message, position)
        length, value = (0, position) if key & 7 == 0 else _length(message, position, key & 7)
        position = _varint(message, position)[1] if key & 7 == 0 else value + length
        yield key, start, value, position


@dataclass
class _Reader:
    """Walks a model, and remembers what it saw."""

    weights: bool
    has_nan: bool = False
    external: list[ExternalData] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)  # small int64 tensors, by name
    shaped: list[tuple[str, str]] = field(default_factory=list)  # operator, name of the input that says its shape
    nodes: int = 0
    fields: int = 0

    def facts(self) -> GraphFacts:
        flags = {name for _, name in self.operators if name in _BRANCHES}
        flags |= {
            f"huge {op}" for op, shape in self.shaped if math.prod(self.constants.get(shape, ())) > _HUGE_ELEMENTS
        }
        flags |= {"NaN in weights"} if self.has_nan else set()
        operators, functions = frozenset(self.operators), frozenset(self.functions)
        return GraphFacts(tuple(self.external), self.nodes, operators, functions, tuple(sorted(flags)))

    def model(self, data: memoryview) -> None:
        has_version = has_graph = False
        for number, value in self._fields(data):
            if number == 1:
                has_version = True
            elif number == 7 and isinstance(value, memoryview):
                has_graph |= self._graph(value, 0)
            elif number == 25 and isinstance(value, memoryview):
                self._function(value)
        if not (has_version and has_graph):
            raise _MalformedError("it has no ir_version, or no graph with nodes or outputs")

    def _function(self, data: memoryview) -> None:
        names = {1: "", 10: ""}
        for number, value in self._fields(data):
            if not isinstance(value, memoryview):
                continue
            if number == 7:
                self._node(value, 0)
            elif number == 11:
                self._attribute(value, 0)
            elif number in names:
                names[number] = _text(value)
        self.functions.add((names[10], names[1]))

    def _graph(self, data: memoryview, depth: int) -> bool:
        """Walk a graph; tell whether it has nodes or outputs."""
        if depth > _MAX_DEPTH:
            raise _MalformedError("its subgraphs are nested too deep")
        has_content = False
        for number, value in self._fields(data):
            if not isinstance(value, memoryview):
                continue
            has_content |= number in (1, 12)
            if number == 1:
                self._node(value, depth)
            elif number == 5:
                name, numbers = self._tensor(value)
                self.constants[name] = numbers
            elif number == 15:
                self._sparse(value)
        return has_content

    def _node(self, data: memoryview, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _TooLargeError("more")
        names = {4: "", 7: ""}
        constant: tuple[int, ...] = ()
        inputs: list[memoryview] = []
        outputs: list[memoryview] = []
        for number, value in self._fields(data):
            if not isinstance(value, memoryview):
                continue
            if number == 5:
                constant = self._attribute(value, depth) or constant
            elif number == 1:
                inputs.append(value)
            elif number == 2:
                outputs.append(value)
            elif number in names:
                names[number] = _text(value)
        self.operators.add((names[7], names[4]))
        at = _SHAPE_INPUT.get(names[4])
        if at is not None and at < len(inputs):
            self.shaped.append((names[4], _text(inputs[at])))
        if names[4] == "Constant" and outputs:
            self.constants[_text(outputs[0])] = constant

    def _attribute(self, data: memoryview, depth: int) -> tuple[int, ...]:
        """Walk an attribute; give the numbers of a small int64 tensor."""
        numbers: tuple[int, ...] = ()
        for number, value in self._whole(data, (5, 22)):
            if not isinstance(value, memoryview):
                continue
            if number in (5, 10):
                _, numbers = self._tensor(value)
            elif number in (6, 11):
                self._graph(value, depth + 1)
            elif number in (22, 23):
                self._sparse(value)
        return numbers

    def _sparse(self, data: memoryview) -> None:
        for number, value in self._whole(data, (1, 2)):
            if number in (1, 2) and isinstance(value, memoryview):
                self._tensor(value)

    def _tensor(self, data: memoryview) -> tuple[str, tuple[int, ...]]:
        """Check a tensor; give its name, and its numbers when it is a small one of int64."""
        entries: dict[str, str] = {}
        dims: list[int] = []
        scalars, parts = {2: 0, 14: 0}, {7: memoryview(b""), 8: memoryview(b""), 9: memoryview(b"")}
        for number, value in self._fields(data):
            if number == 1:
                dims += _varints(value) if isinstance(value, memoryview) else [value]
                if len(dims) > _MAX_RANK:
                    raise _MalformedError(f"a tensor has more than {_MAX_RANK} dimensions")
            elif number in scalars and isinstance(value, int):
                scalars[number] = value & 0xFFFFFFFF  # protobuf cuts an enum to 32 bits
            elif number in parts and isinstance(value, memoryview):
                parts[number] = value
            elif number == 13 and isinstance(value, memoryview):
                pair = {n: _text(v) for n, v in self._fields(value) if isinstance(v, memoryview)}
                entries[pair.get(1, "")] = pair.get(2, "")
        name, external = _text(parts[8]), scalars[14] == _EXTERNAL
        if external:
            self.external.append(_located(entries))
        _assert_filled(name, dims, scalars[2], None if external else len(data))
        if self.weights and not external and scalars[2] in _FLOATS:
            dtype = np.dtype(_FLOATS[scalars[2]])
            held = np.frombuffer(parts[9], dtype, len(parts[9]) // dtype.itemsize)
            self.has_nan |= bool(np.isnan(held).any())
        if external or scalars[2] != _INT64 or len(data) > _MAX_SHAPE_BYTES:
            return name, ()
        return name, tuple(map(_signed, _varints(parts[7]))) or tuple(parts[9][: len(parts[9]) & ~7].cast("q"))

    def _whole(self, data: memoryview, tensors: tuple[int, ...]) -> Iterator[tuple[int, int | memoryview]]:
        """Walk a message whose `tensors` stand once: protobuf would merge the second into the first, unseen."""
        seen = set()
        for number, value in self._fields(data):
            if number in tensors and number in seen:
                raise _MalformedError("a tensor stands in it in two pieces")
            seen.add(number)
            yield number, value

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Walk one message; every byte must belong to a field, so a file that is cut short is found."""
        position, end = 0, len(data)
        while position < end:
            self.fields += 1
            if self.fields > _MAX_FIELDS:
                raise _TooLargeError(f"more than {_MAX_FIELDS:,} fields")
            run = _RUN.get(data[position])
            skipped = run(data, position) if run else None
            if skipped:
                position = skipped.end()
                continue
            key, position = _varint(data, position)
            number, kind = key >> 3, key & 7
            if not 0 < number <= _MAX_FIELD:
                raise _MalformedError("it is not protobuf")
            if kind == 0:
                value, position = _varint(data, position)
                yield number, value
                continue
            length, position = _length(data, position, kind)
            if position + length > end:
                raise _MalformedError("it is cut short, or not protobuf")
            yield number, data[position : position + length]
            position += length


def _located(entries: dict[str, str]) -> ExternalData:
    try:
        length = int(entries["length"]) if "length" in entries else None
        return ExternalData(entries.get("location", ""), int(entries.get("offset", "0")), length)
    except ValueError:
        raise _MalformedError("an offset or length of external data is not a number") from None


def _assert_filled(name: str, dims: list[int], kind: int, held_bytes: int | None) -> None:
    """Refuse dimensions that no bytes stand behind, before anything allocates them. External data has its own check."""
    sizes = [_signed(d) for d in dims]
    if any(size < 0 for size in sizes):
        raise _MalformedError(f"the tensor {name[:100]!r} has a negative dimension")
    elements = math.prod(sizes)
    if held_bytes is not None and elements * _BITS.get(kind, 8) > 8 * held_bytes:
        raise _MalformedError(f"the tensor {name[:100]!r} declares {elements} elements in {held_bytes} bytes")


def _length(data: memoryview, position: int, kind: int) -> tuple[int, int]:
    if kind == 2:
        return _varint(data, position)
    if kind in (1, 5):
        return (8 if kind == 1 else 4), position
    raise _MalformedError("it is not protobuf")


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "replace")


def _signed(value: int) -> int:
    """Read a varint's 64 bits as protobuf's int64."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def _varints(data: memoryview) -> list[int]:
    """Read packed varints, as many as a shape may have."""
    found: list[int] = []
    position = 0
    while position < len(data) and len(found) <= _MAX_SHAPE_BYTES:
        value, position = _varint(data, position)
        found.append(value)
    return found


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
