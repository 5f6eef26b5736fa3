"""Encoded images as pixel tensors: decoded to RGB, resized, scaled and laid out as the graph wants them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.runtime.encoders.arrays import byte_bounds
from sparkscore.runtime.encoders.decoders import Decoder, installed_decoder
from sparkscore.runtime.tensors import Cells, mark, null_mask, too_large
from sparkscore.spec.scoring import Image, InputPlan, ScoringPlan

__all__ = ["ImageEncoder", "normalised"]

_RUNS_A_THREAD = 4  # a batch is parted so, that a thread with large images does not keep the others waiting


class ImageEncoder:
    """Decodes one binary column to (pixel * scale - mean) / std, in `plan.session.threads` threads.

    Orientation tags are not followed, as `PIL.Image.open` alone does not.
    """

    def __init__(self, part: Image, tensor: InputPlan, plan: ScoringPlan) -> None:
        self.part = part
        self.name = part.columns[0]
        self.dtype = np.dtype(tensor.dtype)
        self._decoder = Decoder(plan.decoder or installed_decoder(), part.size, scaled=part.decode == "scaled")
        self._threads = plan.session.threads
        self._pool = ThreadPoolExecutor(self._threads, "sparkscore-decode") if self._threads > 1 else None

    def encode(self, cells: Cells) -> NDArray[Any]:
        """Give the images as (n, 3, height, width) or (n, height, width, 3) of the tensor's dtype.

        An image that cannot be decoded to its end, or whose size makes it a decompression bomb, is marked.
        """
        column = cells.column(self.name)
        starts, ends, data = byte_bounds(column)
        large = too_large(ends - starts, self.part.missing, self.name)
        nulls = null_mask(column)
        if nulls is not None:
            cells.faults.add(nulls, "SPS-ROW-NULL", f"Expected a value in column {self.name!r}, got null")
        mark(cells, [large])
        size = self.part.size
        shape = (3, *size) if self.part.layout == "nchw" else (*size, 3)
        block = cells.tally.empty((len(column), *shape), self.dtype)
        good = np.flatnonzero(~cells.faults.bad)
        runs = np.array_split(good, min(len(good), self._threads * _RUNS_A_THREAD) or 1)
        task = partial(self._decode_rows, starts, ends, data, block)
        for broken in map(task, runs) if self._pool is None else self._pool.map(task, runs):
            for row, error_type in broken.items():
                message = f"Expected an image in column {self.name!r}, got bytes that cannot be decoded"
                cells.faults.add([row], "SPS-ROW-DECODE", message, "decode", error_type)
        return block

    def _decode_rows(
        self,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        data: NDArray[np.uint8],
        block: NDArray[Any],
        rows: NDArray[np.int64],
    ) -> dict[int, str]:
        """Write some images where they belong in the block; give the type of error of those that cannot be decoded."""
        broken: dict[int, str] = {}
        for row in rows.tolist():
            try:
                pixels = self._decoder(data[starts[row] : ends[row]].data)
            except Exception as cause:  # boundary: decoders raise whatever a broken file makes them raise
                broken[row] = type(cause).__name__
            else:
                normalised(pixels, self.part, block[row])
        return broken


def normalised(pixels: NDArray[np.uint8], part: Image, out: NDArray[Any]) -> None:
    """Write (pixel * scale - mean) / std, by channel, where the graph wants it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
    part : Image
    out : ndarray, shape (3, height, width) or (height, width, 3) by `part.layout`
        Computed in float32, then cast to its dtype.
    """
    target = out.transpose(1, 2, 0) if part.layout == "nchw" else out
    if part.scale == 1.0 and not part.mean and not part.std:
        target[...] = pixels
        return
    for channel in range(3):  # one at a time: it stays in the cache, and numpy is slow along an axis of three
        plane = pixels[..., channel] * np.float32(part.scale)
        if part.mean:
            plane -= np.float32(part.mean[channel])
        if part.std:
            plane /= np.float32(part.std[channel])
        target[..., channel] = plane
