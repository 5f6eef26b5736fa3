"""The weights of a large model file, once more in a file that ONNX Runtime maps: a node's processes share them.

From a model file every process copies its weights. So the node's cache holds them beside it, aligned, and the graph is
rewritten in memory to name them as external data there. They are proven by the model file, whose digest is pinned.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sparkscore.runtime.onnx_file import external_data, spans

__all__ = ["MIN_MODEL_BYTES", "SharedWeights", "shared_weights"]

MIN_MODEL_BYTES = 16 << 20  # of a smaller file the copies cost less than they spare
_LARGE_BYTES = 64 << 10  # smaller tensors stay in the graph: shapes and the like
_ALIGNED = 4096  # a page, as onnx.proto recommends
_CHUNK_BYTES = 64 << 10  # larger ones are allocated anew by the system, each time

# Protobuf's keys, field number and wire type, of onnx.proto.
_GRAPH, _INITIALIZER = 7 << 3 | 2, 5 << 3 | 2
_DIMS, _PACKED_DIMS, _TYPE, _NAME, _RAW, _DOC = 1 << 3, 1 << 3 | 2, 2 << 3, 8 << 3 | 2, 9 << 3 | 2, 12 << 3 | 2
_EXTERNAL_DATA, _DATA_LOCATION = 13 << 3 | 2, 14 << 3
_PLAIN = {_DIMS, _PACKED_DIMS, _TYPE, _NAME, _RAW, _DOC}
_ENTRY_KEY, _ENTRY_VALUE = 1 << 3 | 2, 2 << 3 | 2

_Parts = list[bytes | memoryview]  # of a message, in order


@dataclass(frozen=True)
class SharedWeights:
    """The weights of a model file, and the graph that names them in a file of their own.

    Attributes
    ----------
    model, file : Path
        The model file, and the one that holds its weights alone; it need not be there.
    graph : bytes
        The model, with its large initialisers as external data in ``file.name``.
    ranges : tuple of (int, int, int)
        Start and end of each in `model`, and its offset in `file`.
    """

    model: Path
    file: Path
    graph: bytes
    ranges: tuple[tuple[int, int, int], ...]

    @property
    def size_bytes(self) -> int:
        """Of `file`, when it is whole."""
        start, end, offset = self.ranges[-1]
        return offset + end - start

    def write(self, target: Path) -> None:
        """Copy the weights out of the model file."""
        with self.model.open("rb") as held, target.open("wb") as sink:
            for at, size, to in self._pieces():
                sink.seek(to)
                sink.write(os.pread(held.fileno(), size, at))
        target.chmod(0o400)  # a write in place would change what running sessions compute

    def is_whole(self) -> bool:
        """Compare `file` with the model file, byte by byte; a missing one is not whole."""
        try:
            with self.model.open("rb") as held, self.file.open("rb") as found:
                return os.fstat(found.fileno()).st_size == self.size_bytes and all(
                    os.pread(held.fileno(), size, at) == os.pread(found.fileno(), size, to)
                    for at, size, to in self._pieces()
                )
        except FileNotFoundError:
            return False

    def _pieces(self) -> Iterator[tuple[int, int, int]]:
        """Cut the ranges small: offset in the model file, size, offset in the weights' file."""
        for start, end, offset in self.ranges:
            for at in range(start, end, _CHUNK_BYTES):
                yield at, min(_CHUNK_BYTES, end - at), at - start + offset


def shared_weights(folder: Path, main: str) -> SharedWeights | None:
    """Say how a model's weights are shared on this node; None for a small model, and for one that has external data.

    Parameters
    ----------
    folder : Path
        The model's local folder, whose bytes were admitted; the weights' file stands beside it.
    main : str
        Path of the ONNX file in it.

    Raises
    ------
    FileNotFoundError
        The file is not there.
    ModelError
        `SPS-MODEL-FORMAT`, `SPS-MODEL-ADMISSION`: it cannot be read.
    """
    model, file = folder / main, folder.with_name(f"{folder.name}.weights")
    if model.stat().st_size < MIN_MODEL_BYTES:
        return None
    with model.open("rb") as held:
        data = mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ)
    moved = _Moved(file.name)
    graph = moved.rewritten(memoryview(data), 0, (_GRAPH, _INITIALIZER))
    if not moved.ranges or external_data(model):  # in this order: the second reads every node of a forest
        return None
    return SharedWeights(model, file, b"".join(graph), tuple(moved.ranges))


@dataclass
class _Moved:
    """Rewrites a model, and remembers what it left out."""

    name: str
    ranges: list[tuple[int, int, int]] = field(default_factory=list)
    size_bytes: int = 0

    def rewritten(self, message: memoryview, base: int, path: tuple[int, ...]) -> _Parts:
        """Rewrite the message at `base` of the file; the tensors are the fields at the end of `path`."""
        if not path:
            return self._tensor(message, base)
        parts: _Parts = []
        for key, start, value, end in spans(message):
            if key == path[0]:
                parts += _field(key, self.rewritten(message[value:end], base + value, path[1:]))
            else:
                parts.append(message[start:end])
        return parts

    def _tensor(self, tensor: memoryview, base: int) -> _Parts:
        """Leave the bytes of a large tensor out; give any other as it is."""
        raw: tuple[int, int] | None = None
        parts: _Parts = []
        for key, start, value, end in spans(tensor):
            if key not in _PLAIN or (key == _RAW and raw):
                return [tensor]
            if key == _RAW:
                raw = value, end
            else:
                parts.append(tensor[start:end])
        if raw is None or raw[1] - raw[0] < _LARGE_BYTES:
            return [tensor]
        start, end = raw
        offset = -(-self.size_bytes // _ALIGNED) * _ALIGNED
        self.ranges.append((base + start, base + end, offset))
        self.size_bytes = offset + end - start
        for name, text in {"location": self.name, "offset": str(offset), "length": str(end - start)}.items():
            entry = [*_field(_ENTRY_KEY, [name.encode()]), *_field(_ENTRY_VALUE, [text.encode()])]
            parts += _field(_EXTERNAL_DATA, entry)
        return [*parts, _varint(_DATA_LOCATION), b"\x01"]


def _field(key: int, value: _Parts) -> _Parts:
    return [_varint(key), _varint(sum(map(len, value))), *value]


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
