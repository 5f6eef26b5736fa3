"""`sparkscore model`: what a model file is, asks for and gives; and a model of images that takes their bytes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparkscore.cli.options import AsJson
from sparkscore.cli.printing import as_table, emit

if TYPE_CHECKING:
    from sparkscore.runtime.loading import TensorInfo

app = typer.Typer(help="Look into a model, or wrap one of images.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look into a model, or wrap one of images."""


@app.command("inspect")
def inspect_model(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A path, s3://…, models:/name@alias, runs:/…")],
    *,
    allow_links: Annotated[bool, typer.Option("--allow-links", help="Follow links that leave the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Resolve a model, and show its inputs, outputs, files and digest, and the providers of this machine."""
    import onnxruntime

    from sparkscore.runtime.loading import read_signature
    from sparkscore.runtime.models import pin

    model = pin(uri, allow_links=allow_links)
    signature = read_signature(model.folder, model.ref.main)
    files: list[dict[str, Any]] = [asdict(file) for file in model.ref.files]
    tensors = [_tensor("input", t) for t in signature.inputs] + [_tensor("output", t) for t in signature.outputs]
    value = {
        "uri": uri,
        "version": model.ref.version,
        "sha256": model.ref.sha256,
        "inputs": [t for t in tensors if t["kind"] == "input"],
        "outputs": [t for t in tensors if t["kind"] == "output"],
        "files": files,
        "flags": list(model.flags),
        "providers": onnxruntime.get_available_providers(),
    }
    head = f"model {uri}\n  version    {model.ref.version}\n  sha256     {model.ref.sha256}"
    head += f"\n  providers  {', '.join(value['providers'])} (of this machine)"
    head += f"\n  flags      {', '.join(model.flags) or 'none'}"
    shown = [{**t, "shape": "(" + ", ".join("?" if d is None else str(d) for d in t["shape"]) + ")"} for t in tensors]
    parts = [
        head,
        as_table(shown, ("kind", "name", "dtype", "shape")),
        as_table(files, ("path", "size_bytes", "sha256")),
    ]
    emit(value, "\n\n".join(parts), as_json)


_Rgb = tuple[float, float, float]


@app.command("wrap")
def wrap_model(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A model that takes float pixels.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the new model is written.")],
    *,
    input_name: Annotated[
        str | None, typer.Option("--input", help="The input of images, if there are several.")
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="Factor on the pixels.")] = 1.0,
    mean: Annotated[_Rgb | None, typer.Option("--mean", help="Red, green, blue.")] = None,
    std: Annotated[_Rgb | None, typer.Option("--std", help="Red, green, blue.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model that takes uint8 images and computes (pixel * scale - mean) / std itself, and prove it equal."""
    from sparkscore.runtime.prologue import wrap_pixels

    made = wrap_pixels(uri, folder, input_name=input_name, scale=scale, mean=mean or (), std=std or ())
    size = ["?" if d is None else d for d in made.shape[1:3]]
    entry = f"{made.input}: {{image: COLUMN, size: [{size[0]}, {size[1]}], layout: nhwc, dtype: uint8}}"
    text = f"model {folder}\n  inputs     {entry}"
    text += f"\n  proven     on {made.images} images; largest difference {made.largest_difference:.3g}"
    emit({"model": str(folder), **asdict(made), "entry": entry}, text, as_json)


def _tensor(kind: str, tensor: TensorInfo) -> dict[str, Any]:
    return {"kind": kind, "name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
