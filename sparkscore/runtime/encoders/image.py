"""Encoded images as pixel tensors: decoded to RGB, resized, scaled and laid out as the graph wants them."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.errors import error
from sparkscore.runtime.encoders.arrays import byte_bounds
from sparkscore.runtime.tensors import Cells, mark, null_mask, too_large
from sparkscore.spec.scoring import Image, InputPlan

__all__ = ["ImageEncoder"]


class ImageEncoder:
    """Decodes one binary column with Pillow: RGB, bilinear resize, (pixel * scale - mean) / std in float32.

    Orientation tags are not followed, as `PIL.Image.open` alone does not.
    """

    def __init__(self, part: Image, tensor: InputPlan) -> None:
        try:
            import PIL.Image
        except ImportError as cause:
            message = "Expected the package Pillow for an image input, got none."
            raise error("SPS-ENV-PACKAGE", message, "pip install 'sparkscore[image]' on every node.") from cause
        self.pil = PIL.Image
        self.part = part
        self.name = part.columns[0]
        self.dtype = np.dtype(tensor.dtype)
        self.plain = part.scale == 1.0 and not part.mean and not part.std

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
        pixels = np.zeros((len(column), *self.part.size, 3), np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("error", self.pil.DecompressionBombWarning)
            for row in np.flatnonzero(~cells.faults.bad):
                self._decode(cells, int(row), data[starts[row] : ends[row]], pixels[row])
        block = self._block(pixels)
        cells.tally.copied_bytes += block.nbytes
        return block

    def _decode(self, cells: Cells, row: int, raw: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> None:
        height, width = self.part.size
        try:
            image = self.pil.open(io.BytesIO(raw.data)).convert("RGB")
            if image.size != (width, height):
                image = image.resize((width, height), self.pil.Resampling.BILINEAR)
        except Exception as cause:  # boundary: decoders raise whatever a broken file makes them raise
            message = f"Expected an image in column {self.name!r}, got bytes that cannot be decoded"
            cells.faults.add([row], "SPS-ROW-DECODE", message, "decode", type(cause).__name__)
        else:
            pixels[:] = np.asarray(image)

    def _block(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        values: NDArray[Any] = pixels
        if not self.plain:
            values = pixels * np.float32(self.part.scale)
            if self.part.mean:
                values -= np.array(self.part.mean, np.float32)
            if self.part.std:
                values /= np.array(self.part.std, np.float32)
        if self.part.layout == "nchw":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values, dtype=self.dtype)
