"""A graph that takes normalised pixels made into one that takes the bytes of RGB images, with the proof of equality."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.encoders.image import normalised
from sparkscore.runtime.loading import Signature, TensorInfo, read_signature
from sparkscore.runtime.models import PinnedModel, pin
from sparkscore.runtime.session import open_session
from sparkscore.spec.scoring import Image, SessionPlan

__all__ = ["Wrapped", "wrap_pixels"]

ROWS = 8  # images of the proof, where the graph leaves their number free
FREE = 224  # pixels on a side that the graph leaves free, in the proof
RTOL, ATOL = 1e-3, 1e-5  # as between rows scored together and alone (pipeline.md §7)

Array = NDArray[Any]


@dataclass(frozen=True)
class Wrapped:
    """The new input, uint8 of shape (n, height, width, 3), and the largest difference of an output over `images`."""

    input: str
    shape: tuple[int | None, ...]
    images: int
    largest_difference: float


def wrap_pixels(
    uri: str,
    folder: Path,
    *,
    input_name: str | None = None,
    scale: float = 1.0,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Wrapped:
    """Write a model whose input is uint8 (n, height, width, 3) and whose own first nodes do the rest.

    Parameters
    ----------
    uri : str
        The model, as `pin` takes it. Its input is float (n, 3, height, width) or (n, height, width, 3).
    folder : Path
        Where the new model is written, with its external data; it must not exist.
    input_name : str, optional
        The input of images; without it, the only one of that form.
    scale, mean, std
        Of value = (pixel * scale - mean) / std, as in an `image` entry of a pipeline; `mean` and `std` by channel.

    Raises
    ------
    SpecError
        SPS-SPEC-VALUE: `folder` exists.
    ModelError
        SPS-MODEL-TYPE: no such input. SPS-MODEL-GOLDEN: the two models answer differently; nothing is written.
        And what `pin` raises.
    ClusterError
        SPS-ENV-PACKAGE: the package onnx is missing.
    """
    onnx = _onnx()
    if folder.exists():
        raise error("SPS-SPEC-VALUE", f"Expected a new folder. Got {folder}, which exists.", "Name another one.")
    model = pin(uri)
    signature = read_signature(model.folder, model.ref.main)
    tensor, layout = _input(signature, input_name)
    part = Image((tensor.name,), layout=layout, dtype=tensor.dtype, scale=scale, mean=mean, std=std)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / folder.name
        base = PurePosixPath(model.ref.main).parent
        for file in model.ref.files:
            copy = made / PurePosixPath(file.path).relative_to(base)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.folder / file.path, copy)
        main = made / PurePosixPath(model.ref.main).name
        proto = onnx.load(str(main), load_external_data=False)
        shape = _prepend(onnx, proto, tensor, part)
        onnx.save(proto, str(main))
        images, difference = _proven(model, pin(str(made)), signature, part)
        made.rename(folder)
    return Wrapped(tensor.name, shape, images, difference)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as cause:
        message = f"Expected the package onnx to write a model. Got: {cause}."
        raise error("SPS-ENV-PACKAGE", message, "pip install 'sparkscore[convert]'.") from cause
    return onnx


def _input(signature: Signature, name: str | None) -> tuple[TensorInfo, str]:
    """Find the input of images, and whether its colours stand first."""
    found = [t for t in signature.inputs if t.dtype.startswith("float") and _layout(t) and name in (None, t.name)]
    if len(found) != 1:
        listed = ", ".join(f"{t.name} {t.dtype} {t.shape}" for t in signature.inputs)
        message = (
            f"Expected one input {name or ''} of float (n, 3, height, width) or (n, height, width, 3). Got {listed}."
        )
        raise error("SPS-MODEL-TYPE", message, "Name the input of images, or export it with three colours as an axis.")
    return found[0], str(_layout(found[0]))


def _layout(tensor: TensorInfo) -> str | None:
    if len(tensor.shape) != 4:
        return None
    return "nchw" if tensor.shape[1] == 3 else "nhwc" if tensor.shape[3] == 3 else None


def _prepend(onnx: Any, proto: Any, tensor: TensorInfo, part: Image) -> tuple[int | None, ...]:
    """Put the nodes of an `image` entry before the graph, in its order of operations; give the new input's shape."""
    graph, make = proto.graph, onnx.helper
    inner = f"{tensor.name}/normalised"
    _rename(graph, tensor.name, inner)
    first = part.layout == "nchw"
    nodes: list[Any] = []

    def then(kind: str, *constants: str, **attributes: Any) -> None:
        source = nodes[-1].output[0] if nodes else tensor.name
        nodes.append(make.make_node(kind, [source, *constants], [f"{inner}/{len(nodes)}"], **attributes))

    if first:
        then("Transpose", perm=[0, 3, 1, 2])  # of bytes: a quarter of the floats
    then("Cast", to=onnx.TensorProto.FLOAT)
    for kind, values in (("Mul", part.scale), ("Sub", part.mean), ("Div", part.std)):
        if values not in (1.0, ()):
            shape = (3, 1, 1) if first and isinstance(values, tuple) else (-1,)
            constant = np.array(values, np.float32).reshape(shape)
            graph.initializer.append(onnx.numpy_helper.from_array(constant, f"{inner}/{kind}"))
            then(kind, f"{inner}/{kind}")
    then("Cast", to=make.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))
    nodes[-1].output[0] = inner
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    held = next(one for one in graph.input if one.name == tensor.name)
    axes = [axis.dim_param or axis.dim_value or None for axis in held.type.tensor_type.shape.dim]
    axes = [axes[0], axes[2], axes[3], 3] if first else axes
    held.CopyFrom(make.make_tensor_value_info(tensor.name, onnx.TensorProto.UINT8, axes))
    return tuple(axis if isinstance(axis, int) else None for axis in axes)


def _rename(graph: Any, name: str, to: str) -> None:
    """Rename a value where nodes read it, in the bodies of `If` and `Loop` too."""
    for node in graph.node:
        node.input[:] = [to if one == name else one for one in node.input]
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(body, name, to)


def _proven(model: PinnedModel, wrapped: PinnedModel, signature: Signature, part: Image) -> tuple[int, float]:
    """Score random images by both models, black and white ones among them; give their number and the difference."""
    tensor = next(t for t in signature.inputs if t.name == part.columns[0])
    rows = tensor.shape[0] or ROWS
    sides = tensor.shape[2:] if part.layout == "nchw" else tensor.shape[1:3]
    height, width = (side or FREE for side in sides)
    pixels = np.random.default_rng(0).integers(0, 256, (rows, height, width, 3), np.uint8)
    pixels[:2] = np.array([0, 255], np.uint8)[:rows, None, None, None]
    floats = np.empty((rows, 3, height, width) if part.layout == "nchw" else pixels.shape, tensor.dtype)
    for image, out in zip(pixels, floats, strict=True):
        normalised(image, part, out)
    others = {t.name: _zeros(t, rows) for t in signature.inputs if t.name != tensor.name}
    outputs = [t.name for t in signature.outputs if not t.dtype.startswith(("seq", "map"))]
    expected = _scored(model, {**others, tensor.name: floats}, outputs)
    got = _scored(wrapped, {**others, tensor.name: pixels}, outputs)
    return rows, max(_difference(*pair) for pair in zip(outputs, expected, got, strict=True))


def _scored(model: PinnedModel, feeds: Mapping[str, Array], outputs: list[str]) -> list[Array]:
    return open_session(model.ref, SessionPlan(), model.folder, warm=False).run(feeds, outputs)


def _zeros(tensor: TensorInfo, rows: int) -> Array:
    shape = [rows if i == 0 and d is None else d or 1 for i, d in enumerate(tensor.shape)]
    return np.full(shape, "", object) if tensor.dtype == "str" else np.zeros(shape, tensor.dtype)


def _difference(output: str, expected: Array, got: Array) -> float:
    """Give the largest difference of one output, where it is within the tolerance."""
    if expected.dtype.kind != "f":
        alike, difference = bool(np.array_equal(expected, got)), 0.0
    else:
        alike = bool(np.allclose(got, expected, RTOL, ATOL, equal_nan=True))
        finite = np.isfinite(expected) & np.isfinite(got)
        difference = float(np.abs(expected - got, where=finite, out=np.zeros_like(expected)).max(initial=0))
    if not alike:
        raise _differs(output, difference)
    return difference


def _differs(output: str, difference: float) -> SparkscoreError:
    message = f"Expected output {output!r} to be that of the original. Got a largest difference of {difference:.3g}."
    return error(
        "SPS-MODEL-GOLDEN", message, "Feed float pixels to the original; a graph that draws numbers cannot be proven."
    )
