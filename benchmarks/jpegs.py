"""V1: JPEG images of 500x375 and a small CNN on 224x224 bytes; the graph casts, scales and transposes them itself."""

from __future__ import annotations

import io
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from benchmarks.workload import SEED, Arrays, Workload, save

SIDE = 224
_CHANNELS = (3, 16, 32, 64)


class V1(Workload):
    """Images as photographs are: smooth, with noise on top, some 60 KB each."""

    name = "V1"
    title = "JPEG 500x375 to 224x224 bytes, CNN of 3 convolutions"
    sizes = (200, 800)
    columns = ["jpeg"]
    unit = "image"
    files = 4
    group_rows = 100
    call_rows = 32

    def write_model(self, folder: Path) -> Path:
        return write_cnn(folder / "cnn.onnx")

    def table(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        return {"jpeg": pa.array([_jpeg(rng) for _ in range(rows)], pa.binary())}

    def feeds(self, columns: Arrays, model: str) -> dict[str, np.ndarray]:
        return {"x": np.stack([decoded(jpeg) for jpeg in columns[0].to_pylist()])}

    def inputs(self, model: str) -> dict[str, Any]:
        return {"x": {"image": "jpeg", "size": [SIDE, SIDE], "layout": "nhwc", "dtype": "uint8"}}


def decoded(jpeg: bytes) -> np.ndarray:
    """Decode an image to (224, 224, 3) by Pillow's bilinear filter, by the fastest of the packages that are installed."""
    decode, resize = _packages()
    return resize(decode(jpeg))


@cache
def _packages() -> tuple[Any, Any]:
    try:
        import cykooz_resizer as cr
        import simplejpeg
    except ImportError:
        return _by_pillow, _resized_by_pillow
    target, resizer = cr.ImageData(SIDE, SIDE, cr.PixelType.U8x3), cr.Resizer()
    bilinear = cr.ResizeOptions(cr.ResizeAlg.convolution(cr.FilterType.bilinear))

    def resize(pixels: np.ndarray) -> np.ndarray:
        source = cr.ImageData(pixels.shape[1], pixels.shape[0], cr.PixelType.U8x3, pixels.tobytes())
        resizer.resize(source, target, bilinear)
        return np.frombuffer(target.get_buffer(), np.uint8).reshape(SIDE, SIDE, 3).copy()

    return partial(simplejpeg.decode_jpeg, colorspace="RGB"), resize


def _by_pillow(jpeg: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def _resized_by_pillow(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _jpeg(rng: np.random.Generator) -> bytes:
    from PIL import Image

    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape, np.int16), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=85)
    return file.getvalue()


def write_cnn(path: Path) -> Path:
    """Write x (n, 224, 224, 3) of uint8 -> p (n, 1)."""
    rng = np.random.default_rng(SEED)
    weights = [numpy_helper.from_array(np.float32(1 / 255), "scale")]
    nodes = [
        helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["a0"], perm=[0, 3, 1, 2]),
    ]
    for i, (a, b) in enumerate(pairwise(_CHANNELS)):
        w = rng.normal(0, (a * 9) ** -0.5, (b, a, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"a{i}", f"w{i}"], [f"c{i}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"a{i + 1}"]))
    last = _CHANNELS[-1]
    weights.append(numpy_helper.from_array(rng.normal(0, 8 * last**-0.5, (last, 1)).astype(np.float32), "w"))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"a{len(_CHANNELS) - 1}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
    ]
    given = {"x": (TensorProto.UINT8, ["n", SIDE, SIDE, 3])}
    return save(path, nodes, weights, given, {"p": (TensorProto.FLOAT, ["n", 1])})
