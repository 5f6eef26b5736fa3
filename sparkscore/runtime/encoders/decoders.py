"""Encoded images as RGB pixels of one size: Pillow's rules and pixels, by the fastest of the installed packages."""

from __future__ import annotations

import io
import threading
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.errors import error

__all__ = ["Decoder", "installed_decoder"]

Pixels = NDArray[np.uint8]

PILLOW, JPEG, RESIZER = "pillow", "simplejpeg", "cykooz-resizer"
SCRATCH_BYTES = 8 * 1024 * 1024  # a thread's own, for images up to 1080p; larger ones get memory of their own


def installed_decoder() -> str:
    """Name what decodes images in this Python, as pip's requirements: ``pillow==13.0.0 simplejpeg==1.9.0``.

    Raises
    ------
    ClusterError
        SPS-ENV-PACKAGE: Pillow is not installed; the others are optional.
    """
    found = {name: _version(name) for name in (PILLOW, JPEG, RESIZER)}
    if found[PILLOW] is None:
        message = "Expected the package Pillow for an image input, got none."
        raise error("SPS-ENV-PACKAGE", message, "pip install 'sparkscore[image]' on the driver and on every node.")
    return " ".join(f"{name}=={found[name]}" for name in found if found[name])


class Decoder:
    """Decodes images to uint8 pixels of shape (height, width, 3); may be called from several threads at once.

    Parameters
    ----------
    packages : str
        As `installed_decoder` names them: exactly those are used.
    size : tuple of int
        (height, width) of the result, in pixels.
    scaled : bool
        Whether a JPEG may be decoded at a half, a quarter or an eighth of its size, where that is still no smaller
        than `size`.

    Raises
    ------
    ClusterError
        SPS-ENV-PACKAGE: this Python has other packages.

    Notes
    -----
    Pillow reads every header and judges every file. simplejpeg only decodes what Pillow calls a JPEG of grey or RGB,
    to the same pixels: both use libjpeg-turbo. The resizer has Pillow's bilinear filter over all source pixels, with
    weights of fewer bits: a value differs by at most 1 (docs/decisions/0031).
    """

    def __init__(self, packages: str, size: tuple[int, int], *, scaled: bool = False) -> None:
        _assert_installed(packages)
        import PIL.Image

        self._pil = PIL.Image
        self._pil.preinit()  # registers the usual formats here, not in two threads at once
        self._size = size
        self._scaled = scaled
        self._jpeg = _simplejpeg() if f"{JPEG}==" in packages else None
        self._resizer = _resizer() if f"{RESIZER}==" in packages else None
        self._local = threading.local()

    def __call__(self, raw: memoryview) -> Pixels:
        """Decode one image; the array holds until this thread's next call.

        Raises
        ------
        Exception
            Whatever Pillow raises for what is broken or no image, or has more than `PIL.Image.MAX_IMAGE_PIXELS`.
        """
        height, width = self._size
        image = self._pil.open(io.BytesIO(raw))
        most = self._pil.MAX_IMAGE_PIXELS or np.inf  # Pillow itself only warns, up to twice as many
        if image.width * image.height > most:
            raise self._pil.DecompressionBombError(f"{image.width} x {image.height} pixels")
        if self._scaled:
            image.draft("RGB", (width, height))
        if self._jpeg is None and self._resizer is None:
            image = self._rgb(image)
            if image.size != (width, height):
                image = image.resize((width, height), self._pil.Resampling.BILINEAR)
            return np.asarray(image)
        pixels = self._decoded(image, raw)
        return pixels if pixels.shape[:2] == self._size else self._resized(pixels)

    def _decoded(self, image: Any, raw: memoryview) -> Pixels:
        if self._jpeg is not None and image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            scratch = self._scratch() if image.width * image.height * 3 <= SCRATCH_BYTES else None
            with suppress(ValueError):  # it refuses files that Pillow bears: Pillow has the last word
                pixels: Pixels = self._jpeg.decode_jpeg(
                    raw, "RGB", min_height=image.height, min_width=image.width, buffer=scratch
                )
                return pixels
        return np.asarray(self._rgb(image))

    def _rgb(self, image: Any) -> Any:
        """Convert to RGB. Of 16 bits the upper 8 are kept, where Pillow makes all above 255 white."""
        if image.mode.startswith("I;16"):
            image = self._pil.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError("pixels of 32 bits have no agreed range")
        return image.convert("RGB")

    def _resized(self, pixels: Pixels) -> Pixels:
        height, width = self._size
        if self._resizer is None:
            image = self._pil.fromarray(pixels).resize((width, height), self._pil.Resampling.BILINEAR)
            return np.asarray(image)
        if not hasattr(self._local, "resizer"):
            self._local.resizer = self._resizer(self._size)
        resized: Pixels = self._local.resizer(pixels)
        return resized

    def _scratch(self) -> bytearray:
        if not hasattr(self._local, "scratch"):
            self._local.scratch = bytearray(SCRATCH_BYTES)
        scratch: bytearray = self._local.scratch
        return scratch


class _Resizer:
    """Pillow's bilinear resize with SIMD, for one thread: a `Resizer` of the package serves one at a time."""

    def __init__(self, size: tuple[int, int]) -> None:
        import cykooz_resizer

        height, width = size
        self._image, self._kind = cykooz_resizer.ImageData, cykooz_resizer.PixelType.U8x3
        bilinear = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear)
        self._options = cykooz_resizer.ResizeOptions(bilinear)
        self._target = self._image(width, height, self._kind)
        self._resizer = cykooz_resizer.Resizer()
        self._shape = (height, width, 3)

    def __call__(self, pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        source = self._image(width, height, self._kind, pixels.tobytes())  # it takes nothing but bytes
        self._resizer.resize(source, self._target, self._options)
        return np.frombuffer(self._target.get_buffer(), np.uint8).reshape(self._shape)


def _simplejpeg() -> Any:
    import simplejpeg

    return simplejpeg


def _resizer() -> type[_Resizer]:
    import cykooz_resizer  # noqa: F401  # here, not first in several threads

    return _Resizer


def _assert_installed(packages: str) -> None:
    here = {name: _version(name) for name in (PILLOW, JPEG, RESIZER)}
    wanted = dict(one.split("==") for one in packages.split())
    if any(here[name] != number for name, number in wanted.items()):
        got = " ".join(f"{name}=={number}" for name, number in here.items() if number) or "none of them"
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected the image decoder that this run was planned with: {packages}. Got {got}; another one may give "
            "other pixels.",
            f"Give the driver and every worker the same: pip install {packages}. A new run takes what the driver has.",
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
