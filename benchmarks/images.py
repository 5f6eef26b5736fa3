"""What an image costs before and with the model, on one core: ``python -m benchmarks.images``, a Markdown table.

The bare loops are the decoder's limit: the fastest decoder and resizer known, straight into one block. cv2 is compared
when it is installed, with the packages of the extra `image`.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cykooz_resizer
import numpy as np
import PIL.Image
import pyarrow as pa
import simplejpeg

from benchmarks.gpu import _cnn
from sparkscore.runtime.encoders import Encoder
from sparkscore.runtime.encoders.decoders import installed_decoder
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.tensors import Tally
from sparkscore.spec.scoring import Image, InputPlan, ModelRef, ScoringPlan

SIZE = (224, 224)
IMAGENET = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SOURCES = {"500x375": (375, 500, 48), "1920x1080": (1080, 1920, 10)}  # height, width, images a repeat
REPEATS = 7
BILINEAR = PIL.Image.Resampling.BILINEAR


def main() -> None:
    """Measure each way, one after the other, several times over, and print the best and the median rates."""
    packages = [f"{name} {version(name)}" for name in ("pillow", "simplejpeg", "cykooz-resizer", "onnxruntime")]
    print(f"{', '.join(packages)}; images/s on one core, best (median) of {REPEATS}; pixels against Pillow's, of 255\n")
    for name, (height, width, count) in SOURCES.items():
        raws = [_photo(height, width, seed) for seed in range(4)]
        expected = np.stack([_by_pillow(raw) for raw in raws])
        print(
            f"| {name}, {sum(map(len, raws)) // 4096} KiB | images/s | largest | mean difference |\n|---|---|---|---|"
        )
        for way, (call, pixels) in _ways(raws).items():
            found = _rates(call, [raws[i % 4] for i in range(count)])
            print(f"| {way} | {found} | {_differences(pixels, raws, expected)} |", flush=True)
        print()


def _photo(height: int, width: int, seed: int) -> bytes:
    """A JPEG of quality 75 with the spectrum of a photo (1/f)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.standard_normal((height, width))) / np.maximum(frequency, 1 / max(height, width))
        plane = np.fft.irfft2(noise, (height, width))
        planes.append((plane - plane.mean()) / plane.std() * 50 + 128)
    mixed = [planes[0], 0.7 * planes[0] + 0.3 * planes[1], 0.6 * planes[0] + 0.4 * planes[2]]
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.clip(np.stack(mixed, -1), 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def _by_pillow(raw: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(raw)).convert("RGB").resize(SIZE[::-1], BILINEAR))


Way = tuple[Callable[[Sequence[bytes]], Any], Callable[[bytes], np.ndarray] | None]


def _ways(raws: Sequence[bytes]) -> dict[str, Way]:
    height, width, *_ = simplejpeg.decode_jpeg_header(raws[0])
    pixels = np.empty((height, width, 3), np.uint8)
    pillow, jpeg, resizer = installed_decoder().split()

    def decode(raw: bytes) -> np.ndarray:
        return simplejpeg.decode_jpeg(raw, "RGB", buffer=pixels)

    ways: dict[str, Way] = {
        "decode alone, Pillow": (_each(lambda raw: PIL.Image.open(io.BytesIO(raw)).load()), None),
        "decode alone, simplejpeg": (_each(decode), None),
        "bare loop, Pillow": (_block(_by_pillow), _by_pillow),
        **_with_cv2(decode),
        "bare loop, simplejpeg and cykooz-resizer": _bare(decode),
    }
    for name, packages in (
        ("Pillow", pillow),
        ("Pillow, simplejpeg", f"{pillow} {jpeg}"),
        ("all", f"{pillow} {jpeg} {resizer}"),
    ):
        ways[f"encoder, {name}"] = _encoder(packages)
    ways["encoder, all, scaled"] = _encoder(installed_decoder(), decode="scaled")
    ways["encoder, all, float32 nchw"] = _encoder(installed_decoder(), "float32", "nchw", **IMAGENET)
    ways["encoder and small CNN, float32 nchw"] = _scored("float32")
    ways["encoder and small CNN, wrapped for uint8"] = _scored("uint8")
    return ways


def _each(call: Callable[[bytes], Any]) -> Callable[[Sequence[bytes]], None]:
    def run(raws: Sequence[bytes]) -> None:
        for raw in raws:
            call(raw)

    return run


def _block(call: Callable[[bytes], np.ndarray]) -> Callable[[Sequence[bytes]], np.ndarray]:
    def run(raws: Sequence[bytes]) -> np.ndarray:
        block = np.empty((len(raws), *SIZE, 3), np.uint8)
        for out, raw in zip(block, raws, strict=True):
            out[...] = call(raw)
        return block

    return run


def _bare(decode: Callable[[bytes], np.ndarray]) -> Way:
    kind = cykooz_resizer.PixelType.U8x3
    bilinear = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear)
    options, resizer = cykooz_resizer.ResizeOptions(bilinear), cykooz_resizer.Resizer()
    target = cykooz_resizer.ImageData(SIZE[1], SIZE[0], kind)

    def call(raw: bytes) -> np.ndarray:
        pixels = decode(raw)
        source = cykooz_resizer.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels.tobytes())
        resizer.resize(source, target, options)
        return np.frombuffer(target.get_buffer(), np.uint8).reshape(*SIZE, 3)

    return _block(call), call


def _with_cv2(decode: Callable[[bytes], np.ndarray]) -> dict[str, Way]:
    try:
        import cv2
    except ImportError:
        return {}
    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

    def by(interpolation: int) -> Callable[[bytes], np.ndarray]:
        return lambda raw: cv2.resize(
            cv2.imdecode(np.frombuffer(raw, np.uint8), flags), SIZE, interpolation=interpolation
        )

    linear, area = by(cv2.INTER_LINEAR), by(cv2.INTER_AREA)
    return {
        f"bare loop, cv2 {cv2.__version__}, INTER_LINEAR": (_block(linear), linear),
        "bare loop, cv2, INTER_AREA": (_block(area), area),
    }


def _encoder(packages: str, dtype: str = "uint8", layout: str = "nhwc", **settings: Any) -> Way:
    part = Image(("i",), size=SIZE, layout=layout, dtype=dtype, **settings)  # type: ignore[arg-type]
    plan = InputPlan("x", dtype, (None, None, None), (part,))
    encoder = Encoder(ScoringPlan(ModelRef("m", "1", "0", "m", "m", ()), (plan,), (), (), decoder=packages), Path())

    def run(raws: Sequence[bytes]) -> np.ndarray:
        batch = pa.record_batch([pa.array(raws, pa.binary())], ["i"])
        return encoder.encode(batch, Faults(len(raws)), Tally())[0].feeds["x"]

    return run, (lambda raw: run([raw])[0]) if dtype == "uint8" else None


def _scored(dtype: str) -> Way:
    import tempfile

    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    from sparkscore.runtime.prologue import wrap_pixels

    nodes, weights, shape = _cnn((3, 16, 32, 64))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, 1, 1])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [result], weights),
        ir_version=9,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        onnx.save(model, str(path))
        if dtype == "uint8":
            wrap_pixels(str(path), Path(folder) / "w", **IMAGENET)
            path = Path(folder) / "w" / "m.onnx"
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    encode, _ = (
        _encoder(installed_decoder())
        if dtype == "uint8"
        else _encoder(installed_decoder(), "float32", "nchw", **IMAGENET)
    )
    return lambda raws: session.run(None, {"x": encode(raws)}), None


def _rates(call: Callable[[Sequence[bytes]], Any], raws: Sequence[bytes]) -> str:
    call(raws)
    found = []
    for _ in range(REPEATS):
        started = time.process_time()
        call(raws)
        found.append(len(raws) / (time.process_time() - started))
    return f"{max(found):,.0f} ({np.median(found):,.0f})"


def _differences(call: Callable[[bytes], np.ndarray] | None, raws: Sequence[bytes], expected: np.ndarray) -> str:
    if call is None:
        return "|"
    difference = np.abs(np.stack([call(raw) for raw in raws]).astype(int) - expected)
    return f"{difference.max()} | {difference.mean():.2f}"


if __name__ == "__main__":
    sys.exit(main())
