"""Tensors and a small head as a message to another process: numbers by memory that both map, the rest by a pipe."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["SharedMemory", "pack", "receive", "send"]

Array = NDArray[Any]
_LENGTHS = struct.Struct("<QQ")
_ALIGN = 64  # bytes, as numpy and ONNX Runtime like their arrays
_GROWN_BYTES = 1024**2


class SharedMemory:
    """Memory that one process writes and another reads, one message at a time; it grows with the largest message.

    Parameters
    ----------
    descriptor : int, optional
        Of the memory that the other process made. None: memory of this process's own, where the system has any.

    Notes
    -----
    Linux's `memfd`, sealed against shrinking: a page that vanishes would kill its reader. The pages are used again for
    the next message, so that they are faulted in once: that, and not the copy, is what bytes on a pipe cost.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("sparkscore", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    def put(self, tensors: Mapping[str, Array]) -> dict[str, int]:
        """Write tensors over those of the message before, and give where each begins."""
        places, end = {}, 0
        for name, tensor in tensors.items():
            places[name] = end
            end += -(-tensor.nbytes // _ALIGN) * _ALIGN
        if end > os.fstat(self.descriptor).st_size:
            os.ftruncate(self.descriptor, -(-end // _GROWN_BYTES) * _GROWN_BYTES)
        for name, tensor in tensors.items():
            if tensor.size:
                np.copyto(self.at(places[name], tensor.dtype.str, tensor.shape), tensor)
        return places

    def at(self, place: int, dtype: str, shape: tuple[int, ...]) -> Array:
        """Give the tensor that begins at a place, as it stands there until the next message."""
        if 0 in shape:
            return np.empty(shape, dtype)  # there may be no memory yet
        size = os.fstat(self.descriptor).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.descriptor, size)  # views of the one before keep it
        return np.ndarray(shape, dtype, buffer=self._map, offset=place)

    def close(self) -> None:
        """Give the memory back, once nothing views it."""
        self._map = None
        os.close(self.descriptor)


def pack(head: Mapping[str, Any], tensors: Mapping[str, Any], shared: SharedMemory | None = None) -> bytes:
    """Build a message: its two lengths, a JSON of the head and of what each tensor is, and the bytes of numbers.

    Parameters
    ----------
    head : mapping
        Whatever JSON can hold.
    tensors : mapping of ndarray
        Of any shape; what is no array, such as a map that a graph may give, arrives as None.
    shared : SharedMemory, optional
        Where the bytes of numbers are put instead.

    Raises
    ------
    UnicodeEncodeError
        A string that is not Unicode, as ONNX Runtime raises for it.
    """
    tensors = {name: np.asarray(t) if isinstance(t, np.generic) else t for name, t in tensors.items()}
    numbers = {n: t for n, t in tensors.items() if isinstance(t, np.ndarray) and t.dtype.kind not in "OU"}
    places, data = _joined(numbers) if shared is None else (shared.put(numbers), b"")
    told = {name: _told(tensor, places.get(name)) for name, tensor in tensors.items()}
    words = json.dumps([head, told], ensure_ascii=False).encode()
    return b"".join((_LENGTHS.pack(len(words), len(data)), words, data))


def send(pipe: BinaryIO, message: bytes) -> None:
    """Write a message and flush it."""
    pipe.write(message)
    pipe.flush()


def receive(pipe: BinaryIO, shared: SharedMemory | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a message: its head and its tensors; numbers in shared memory stand there until the next message.

    Raises
    ------
    OSError
        The other side is gone.
    """
    lengths = _LENGTHS.unpack(_read(pipe, _LENGTHS.size))
    words, data = (_read(pipe, length) for length in lengths)
    head, told = json.loads(words)
    return head, {name: _tensor(tensor, data, shared) for name, tensor in told.items()}


def _read(pipe: BinaryIO, length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise ConnectionResetError(f"{len(data)} of {length} bytes")
    return data


def _joined(numbers: Mapping[str, Array]) -> tuple[dict[str, int], bytes]:
    parts = [tensor.tobytes() for tensor in numbers.values()]
    starts = accumulate((len(part) for part in parts), initial=0)
    return dict(zip(numbers, starts, strict=False)), b"".join(parts)


def _told(tensor: Any, place: int | None) -> list[Any] | None:
    """Of numbers: shape, dtype and place; of strings: shape and themselves."""
    if not isinstance(tensor, np.ndarray):
        return None
    if place is None:
        return [tensor.shape, tensor.ravel().tolist()]
    return [tensor.shape, tensor.dtype.str, place]


def _tensor(told: list[Any] | None, data: bytes, shared: SharedMemory | None) -> Array | None:
    if told is None:
        return None
    shape, *numbers = told
    if len(numbers) == 1:
        return np.array(numbers[0], dtype=object).reshape(shape)
    dtype, place = numbers
    return np.ndarray(shape, dtype, data, place) if shared is None else shared.at(place, dtype, shape)
