"""Arrays in memory that the system may not move: a GPU fetches its input from there by itself, three times as fast."""

from __future__ import annotations

import ctypes
import logging
import math
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["PageLocked", "loaded_runtime", "page_locked"]

logger = logging.getLogger(__name__)

LIMIT_BYTES = 1 << 30  # in one process: what is locked is missing everywhere else
_LEAST_BYTES = 64 << 10  # of less the copy takes no longer than the bookkeeping
_GRAIN_BYTES = 1 << 20
_PORTABLE = 1  # cudaHostAllocPortable: for every context of the process


@dataclass(frozen=True, order=True)
class _Piece:
    size: int
    address: int


class PageLocked:
    """Gives arrays as ``numpy.empty`` does, in page-locked memory, used again when array and views are gone.

    Where CUDA refuses, where nothing is gained, and beyond `limit_bytes` they lie in ordinary memory, with the same
    content. What it holds ends with the process.

    Parameters
    ----------
    device : int
        The GPU, as the session's provider counts them.
    runtime : CDLL, optional
        The CUDA runtime; by default the one that the provider has loaded into this process.
    limit_bytes : int
        The most to hold, used or not.
    """

    def __init__(self, device: int, runtime: Any = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self._device = device
        self._runtime = runtime or loaded_runtime()
        self._is_refused = self._runtime is None
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._idle: list[_Piece] = []
        self._returned: deque[_Piece] = deque()  # apart, because a finaliser may run while the lock is held
        self._lock = threading.Lock()

    def __call__(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Give an array of any content; it may be filled, sliced and handed on in any thread."""
        kind, count = np.dtype(dtype), math.prod(shape)
        size = 0 if kind.hasobject else count * kind.itemsize
        piece = self._piece(size) if size >= _LEAST_BYTES else None
        if piece is None:
            return np.empty(shape, kind)
        memory = (ctypes.c_byte * piece.size).from_address(piece.address)
        whole: NDArray[Any] = np.frombuffer(memoryview(memory), kind, count)  # the base of every view of it
        weakref.finalize(whole, self._returned.append, piece).atexit = False
        return whole.reshape(shape)

    def _piece(self, size: int) -> _Piece | None:
        with self._lock:
            while self._returned:
                self._idle.append(self._returned.popleft())
            fitting = min(
                (piece for piece in self._idle if size <= piece.size <= 2 * size + _GRAIN_BYTES), default=None
            )
            if fitting is not None:
                self._idle.remove(fitting)
                return fitting
            rounded = -(-size // _GRAIN_BYTES) * _GRAIN_BYTES
            if self._held_bytes + rounded > self._limit_bytes:
                self._free_idle()
            return self._allocated(rounded) if self._held_bytes + rounded <= self._limit_bytes else None

    def _allocated(self, size: int) -> _Piece | None:
        if self._is_refused:
            return None
        place = ctypes.c_void_p()
        self._runtime.cudaSetDevice(self._device)  # of this thread: else it would open a context on the first GPU
        refused = self._runtime.cudaHostAlloc(ctypes.byref(place), ctypes.c_size_t(size), _PORTABLE)
        if refused or place.value is None:
            self._runtime.cudaGetLastError()  # else the next call of the model would report it
            self._is_refused = True
            logger.warning(
                "fallback: ordinary memory feeds the GPU: CUDA error %s for %d page-locked bytes", refused, size
            )
            return None
        self._held_bytes += size
        return _Piece(size, place.value)

    def _free_idle(self) -> None:
        for piece in self._idle:
            self._runtime.cudaFreeHost(ctypes.c_void_p(piece.address))
            self._held_bytes -= piece.size
        self._idle.clear()


@cache
def page_locked(device: int) -> PageLocked:
    """Give this process's page-locked memory for a GPU, on which a session is loaded."""
    return PageLocked(device)


def loaded_runtime() -> Any:
    """Open the CUDA runtime that this process holds already; None where it holds none."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in lines if "/libcudart.so" in line}
    return ctypes.CDLL(min(paths)) if paths else None
