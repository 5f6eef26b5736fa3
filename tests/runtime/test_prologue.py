"""A graph of float pixels wrapped into one that takes images' bytes: the same answers, or no file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest
from onnx import TensorProto, helper

from sparkscore.errors import ModelError, SpecError
from sparkscore.runtime.loading import read_signature
from sparkscore.runtime.models import pin
from sparkscore.runtime.prologue import wrap_pixels
from sparkscore.runtime.session import open_session
from sparkscore.spec.scoring import Image, SessionPlan
from tests.runtime.plans import batch, encode, tensor
from tests.scoring.graphs import FLOAT, graph

IMAGENET = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SHAPE = ["n", 3, 8, 10]


def convolution(folder: Path, *, external: bool = False) -> str:
    """y (n, 4): a convolution, and the mean over the picture."""
    weights = np.random.default_rng(3).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["y"], axes=[2, 3], keepdims=0),
    ]
    model = onnx.load_from_string(graph(nodes, [("x", FLOAT, SHAPE)], [("y", FLOAT, ["n", 4])], [("w", weights)]))
    folder.mkdir()
    settings = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0} if external else {}
    onnx.save(model, str(folder / "m.onnx"), **settings)
    return str(folder)


def scored(uri: str, part: Image, *raws: bytes) -> np.ndarray:
    """Score images as a worker does."""
    model = pin(uri)
    (info,) = read_signature(model.folder, model.ref.main).inputs
    assert info.dtype == part.dtype
    groups, faults = encode(batch(i=list(raws)), tensor(part.dtype, info.shape[1:], part))
    assert not faults.any
    return open_session(model.ref, SessionPlan(), model.folder).run(groups[0].feeds, ["y"])[0]


@pytest.mark.parametrize("external", [False, True])
def test_bytes_through_the_wrapped_graph_give_what_normalised_floats_gave(tmp_path, external):
    uri = convolution(tmp_path / "m", external=external)
    made = wrap_pixels(uri, tmp_path / "w", **IMAGENET)

    assert (made.input, made.shape, made.images) == ("x", (None, 8, 10, 3), 8)
    assert made.largest_difference == 0
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["m.onnx", *(["w.bin"] if external else [])]
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(5).integers(0, 256, (8, 10, 3), np.uint8)).save(buffer, "PNG")
    floats = scored(uri, Image(("i",), size=(8, 10), **IMAGENET), buffer.getvalue())
    ours = scored(str(tmp_path / "w"), Image(("i",), size=(8, 10), layout="nhwc", dtype="uint8"), buffer.getvalue())
    np.testing.assert_array_equal(ours, floats)


def test_float16_colours_at_the_end_and_a_body_that_reads_the_input(tmp_path):
    def body(name: str, kind: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT16, None)
        return helper.make_graph([helper.make_node(kind, ["x"], [name])], name, [], [value])

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["bright"]),
        helper.make_node("If", ["bright"], ["y"], then_branch=body("a", "Neg"), else_branch=body("b", "Abs")),
    ]
    shape = ["n", 4, 5, 3]
    half = TensorProto.FLOAT16
    made = graph(nodes, [("x", half, shape)], [("y", half, shape)], [("limit", np.float16(0.5))])
    (tmp_path / "m.onnx").write_bytes(made)
    found = wrap_pixels(str(tmp_path / "m.onnx"), tmp_path / "w", scale=1 / 255)
    assert (found.shape, found.largest_difference) == ((None, 4, 5, 3), 0)


def test_a_graph_whose_answers_differ_is_not_written(tmp_path):
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    (tmp_path / "m.onnx").write_bytes(graph(nodes, [("x", FLOAT, SHAPE)], [("y", FLOAT, SHAPE)]))
    with pytest.raises(ModelError, match=r"\[SPS-MODEL-GOLDEN\] Expected output 'y' to be that of the original"):
        wrap_pixels(str(tmp_path / "m.onnx"), tmp_path / "w")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_a_model_without_images_and_a_folder_that_exists_are_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(
        graph([helper.make_node("Identity", ["x"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])])
    )
    with pytest.raises(ModelError, match=r"\[SPS-MODEL-TYPE\] .* Got x float32 \(None, 3\)"):
        wrap_pixels(str(tmp_path / "m.onnx"), tmp_path / "w")
    with pytest.raises(SpecError, match=r"\[SPS-SPEC-VALUE\] Expected a new folder"):
        wrap_pixels(str(tmp_path / "m.onnx"), tmp_path)
