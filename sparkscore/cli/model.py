"""`sparkscore model`: what a model file is, asks for and gives."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparkscore.cli.options import AsJson
from sparkscore.cli.printing import as_table, emit

if TYPE_CHECKING:
    from sparkscore.runtime.loading import TensorInfo

app = typer.Typer(help="Look into a model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look into a model."""


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


def _tensor(kind: str, tensor: TensorInfo) -> dict[str, Any]:
    return {"kind": kind, "name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
