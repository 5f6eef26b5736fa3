"""Images become pixel tensors: decoded strictly, resized, laid out, scaled; what cannot be decoded costs its row."""

from __future__ import annotations

import io
import warnings

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from sparkscore.spec.scoring import Image, Missing
from tests.runtime.plans import batch, codes, encode, message, tensor

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)  # height 4, width 6


def encoded(pixels: np.ndarray = PIXELS, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


def image(dtype: str = "uint8", **settings: object):
    part = Image(("i",), **{"size": (4, 6), "layout": "nhwc", "dtype": dtype, **settings})  # type: ignore[arg-type]
    return tensor(dtype, (None, None, None), part)


def images(*values: bytes | None) -> pa.RecordBatch:
    return batch(i=pa.array(values, pa.binary()))


def test_uint8_pixels_come_through_as_they_are():
    groups, faults = encode(images(encoded(), encoded()), image())
    np.testing.assert_array_equal(groups[0].feeds["x"], np.stack([PIXELS, PIXELS]))
    assert groups[0].feeds["x"].dtype == np.uint8
    assert not faults.any


def test_layout_nchw_puts_colours_first():
    feed = encode(images(encoded()), image(layout="nchw"))[0][0].feeds["x"]
    np.testing.assert_array_equal(feed, PIXELS.transpose(2, 0, 1)[None])
    assert feed.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_pixels_are_scaled_shifted_and_divided_by_channel(dtype):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    feed = encode(images(encoded()), image(dtype, scale=1 / 255, mean=mean, std=std))[0][0].feeds["x"]
    expected = (PIXELS / 255.0 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(feed[0], expected, rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-3)
    assert feed.dtype == np.dtype(dtype)


def test_another_size_is_resized_as_pillow_does_bilinearly():
    feed = encode(images(encoded()), image(size=(2, 3)))[0][0].feeds["x"]
    expected = np.asarray(PIL.Image.fromarray(PIXELS).resize((3, 2), PIL.Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(feed[0], expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_mode_is_decoded_to_rgb(mode):
    buffer = io.BytesIO()
    original = PIL.Image.fromarray(PIXELS).convert(mode)
    original.save(buffer, "TIFF")
    feed = encode(images(buffer.getvalue()), image())[0][0].feeds["x"]
    np.testing.assert_array_equal(feed[0], np.asarray(original.convert("RGB")))


def test_what_cannot_be_decoded_to_its_end_costs_its_row_at_stage_decode():
    big = encoded(np.zeros((64, 64, 3), np.uint8) + np.arange(64, dtype=np.uint8)[:, None, None], "JPEG")
    groups, faults = encode(images(b"not an image", encoded(), big[: len(big) // 2], b""), image())

    assert codes(faults) == dict.fromkeys([0, 2, 3], "SPS-ROW-DECODE")
    assert faults.get(0).stage == "decode"
    assert faults.get(0).error_type == "UnidentifiedImageError"
    assert message(faults, 0) == "Expected an image in column 'i', got bytes that cannot be decoded"
    assert groups[0].rows.tolist() == [1]


def test_a_decompression_bomb_costs_its_row_and_no_warning_is_left_behind(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 20)  # PIXELS has 24: a warning of Pillow's, not yet its error
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, faults = encode(images(encoded(), encoded(PIXELS[:2, :2])), image())
    assert codes(faults) == {0: "SPS-ROW-DECODE"}
    assert faults.get(0).error_type == "DecompressionBombWarning"
    assert not caught


def test_null_and_too_large_cells_are_row_errors():
    small = encoded(PIXELS[:1, :1])
    _, faults = encode(images(None, encoded(), small), image(missing=Missing(max_bytes=len(small))))
    assert codes(faults) == {0: "SPS-ROW-NULL", 1: "SPS-ROW-BYTES"}


def test_a_slice_decodes_its_own_rows():
    groups, _ = encode(images(b"x", encoded(), encoded(255 - PIXELS)).slice(2), image())
    np.testing.assert_array_equal(groups[0].feeds["x"], [255 - PIXELS])
