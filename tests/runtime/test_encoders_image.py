"""Images become pixel tensors: decoded strictly, resized, laid out, scaled; what cannot be decoded costs its row."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from sparkscore.errors import ClusterError
from sparkscore.runtime.encoders import Encoder, decoders
from sparkscore.runtime.encoders.decoders import Decoder, installed_decoder
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.tensors import Tally
from sparkscore.spec.scoring import Image, Missing, ScoringPlan, SessionPlan
from tests.runtime.plans import MODEL, batch, codes, encode, message, tensor

ALL = installed_decoder()  # Pillow, simplejpeg and the resizer: the tests need all three
PILLOW, SIMPLEJPEG, RESIZER = ALL.split()
DECODERS = [PILLOW, f"{PILLOW} {SIMPLEJPEG}", f"{PILLOW} {RESIZER}", ALL]

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


def photo(height: int = 90, width: int = 120) -> np.ndarray:
    """Waves of several lengths in three colours, with an edge: what JPEG and filters are made for."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 3.0 + y / 11.0), np.cos(x / 17.0 - y / 5.0), np.sin((x * y) / 900.0)]
    pixels = np.stack(waves, axis=-1) * 90 + 128 + (x > width / 2)[..., None] * 30
    return np.clip(pixels, 0, 255).astype(np.uint8)


def by_pillow(raw: bytes, height: int, width: int) -> np.ndarray:
    """The meaning of an image, in the words of Pillow."""
    return np.asarray(
        PIL.Image.open(io.BytesIO(raw)).convert("RGB").resize((width, height), PIL.Image.Resampling.BILINEAR)
    )


def decoded(packages: str, raw: bytes, size: tuple[int, int], *, scaled: bool = False) -> np.ndarray | str:
    """Give the pixels, or the name of the error."""
    try:
        return Decoder(packages, size, scaled=scaled)(memoryview(raw)).copy()
    except Exception as cause:  # boundary: which error it is, is what is compared
        return type(cause).__name__


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
    np.testing.assert_allclose(feed[0].astype(int), by_pillow(encoded(), 2, 3), atol=1)


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("packages", DECODERS)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(packages, kind, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 20)  # PIXELS has 24: of which Pillow alone would only warn
    with pytest.warns(PIL.Image.DecompressionBombWarning):
        assert decoded(packages, encoded(kind=kind), (4, 6)) == "DecompressionBombError"
    assert isinstance(decoded(packages, encoded(PIXELS[:2, :2], kind), (2, 2)), np.ndarray)


def test_null_and_too_large_cells_are_row_errors():
    small = encoded(PIXELS[:1, :1])
    _, faults = encode(images(None, encoded(), small), image(missing=Missing(max_bytes=len(small))))
    assert codes(faults) == {0: "SPS-ROW-NULL", 1: "SPS-ROW-BYTES"}


def test_a_slice_decodes_its_own_rows():
    groups, _ = encode(images(b"x", encoded(), encoded(255 - PIXELS)).slice(2), image())
    np.testing.assert_array_equal(groups[0].feeds["x"], [255 - PIXELS])


# -- decoders ------------------------------------------------------------------------------------------


def with_exif(raw: np.ndarray) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return encoded(raw, "JPEG", quality=90, exif=exif)


def jpeg_of(mode: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(photo()).convert(mode).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def palette_with_alpha() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(photo()).quantize(16).save(buffer, "PNG", transparency=3)
    return buffer.getvalue()


def several_in_one() -> bytes:
    buffer = io.BytesIO()
    first, second = PIL.Image.fromarray(photo()), PIL.Image.fromarray(255 - photo())
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    return buffer.getvalue()


FILES = {
    "rgb": lambda: jpeg_of("RGB"),
    "grey": lambda: jpeg_of("L"),
    "cmyk": lambda: jpeg_of("CMYK"),
    "progressive": lambda: encoded(photo(), "JPEG", progressive=True),
    "without subsampling": lambda: encoded(photo(), "JPEG", subsampling=0),
    "orientation": lambda: with_exif(photo()),
    "mpo": several_in_one,
    "png": lambda: encoded(photo()),
    "png with a palette and alpha": palette_with_alpha,
    "rgba": lambda: encoded(np.dstack([photo(), photo()[..., :1]])),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packages", DECODERS)
def test_each_decoder_gives_pillows_pixels_whatever_the_file(packages, name):
    raw = FILES[name]()
    image = PIL.Image.open(io.BytesIO(raw))
    own = decoded(packages, raw, (image.height, image.width))
    np.testing.assert_array_equal(own, by_pillow(raw, image.height, image.width))
    smaller = decoded(packages, raw, (29, 31))
    np.testing.assert_allclose(smaller.astype(int), by_pillow(raw, 29, 31), atol=1 if RESIZER in packages else 0)


@pytest.mark.parametrize("packages", DECODERS)
def test_of_sixteen_bits_the_upper_eight_are_kept_and_wider_pixels_are_refused(packages):
    grey = (np.arange(24, dtype=np.uint16) * 2600).reshape(4, 6)
    expected = np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    for raw in (encoded(grey), encoded(grey, "TIFF")):
        np.testing.assert_array_equal(decoded(packages, raw, (4, 6)), expected)
    assert decoded(packages, encoded(grey.astype(np.int32), "TIFF"), (4, 6)) == "ValueError"
    assert decoded(packages, encoded(grey.astype(np.float32), "TIFF"), (4, 6)) == "ValueError"


@pytest.mark.parametrize("packages", [f"{PILLOW} {SIMPLEJPEG}", ALL])
def test_damaged_files_are_judged_and_read_alike_by_all_decoders(packages):
    """Cut or with bytes changed: what one refuses all refuse, and where a file is borne, its pixels are the same."""
    raw, rng, kinds = encoded(photo(), "JPEG", quality=80), np.random.default_rng(7), set()
    for i in range(120):
        damaged = bytearray(raw[: rng.integers(len(raw))] if i % 3 == 0 else raw)
        for _ in range(i % 3):
            damaged[rng.integers(min(len(damaged), 700))] = rng.integers(256)
        wanted, got = decoded(PILLOW, bytes(damaged), (90, 120)), decoded(packages, bytes(damaged), (90, 120))
        kinds.add(type(wanted))
        np.testing.assert_array_equal(got, wanted)
    assert kinds == {str, np.ndarray}


@pytest.mark.parametrize("packages", DECODERS)
def test_a_scaled_decode_is_pillows_draft_and_close_to_the_full_one(packages):
    raw = encoded(photo(480, 640), "JPEG", quality=90)
    draft = PIL.Image.open(io.BytesIO(raw))
    draft.draft("RGB", (100, 60))
    assert draft.size == (160, 120)  # a quarter: an eighth would be smaller than asked for
    wanted = np.asarray(draft.resize((100, 60), PIL.Image.Resampling.BILINEAR))
    scaled = decoded(packages, raw, (60, 100), scaled=True)
    np.testing.assert_allclose(scaled.astype(int), wanted, atol=1)
    assert np.abs(scaled.astype(int) - by_pillow(raw, 60, 100)).mean() < 2
    np.testing.assert_array_equal(decoded(packages, encoded(), (4, 6), scaled=True), PIXELS)


def plan(decoder: str = "", threads: int = 1, **settings: object) -> ScoringPlan:
    session = SessionPlan(threads=threads)
    return ScoringPlan(MODEL, (image(**settings),), (), (), session=session, decoder=decoder)


def test_a_worker_with_another_decoder_than_the_plan_is_named():
    Encoder(plan(PILLOW), Path())  # what else is installed does not matter
    other = f"{PILLOW} simplejpeg==0.1"
    message = rf"\[SPS-ENV-PACKAGE\] .* planned with: {other}\. Got {ALL}; .* pip install {other}\."
    with pytest.raises(ClusterError, match=message):
        Encoder(plan(other), Path())


def test_a_driver_without_pillow_cannot_plan_for_images(monkeypatch):
    monkeypatch.setattr(decoders, "_version", {}.get)
    with pytest.raises(ClusterError, match=r"\[SPS-ENV-PACKAGE\] Expected the package Pillow .* 'sparkscore\[image\]"):
        installed_decoder()


def test_each_image_stands_in_its_place_and_several_threads_give_the_same_block_and_faults():
    raws = [b"none" if i % 7 == 3 else encoded(photo(40 + i, 60), "JPEG") for i in range(23)]
    found = []
    for threads in (1, 3):
        faults = Faults(len(raws))
        groups = Encoder(plan(threads=threads, size=(24, 32)), Path()).encode(images(*raws), faults, Tally())
        found.append((groups[0].feeds["x"], groups[0].rows.tolist(), codes(faults)))
    alone = [by_pillow(raw, 24, 32) for raw in raws if raw != b"none"]
    np.testing.assert_allclose(found[0][0].astype(int), alone, atol=1)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]
    assert found[0][2] == dict.fromkeys([3, 10, 17], "SPS-ROW-DECODE")
