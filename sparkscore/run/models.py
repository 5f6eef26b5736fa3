"""A pipeline's model, pinned once with its encoders' files, and taken back from a plan on resume."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from sparkscore.errors import error
from sparkscore.runtime import cache
from sparkscore.runtime.admission import admit
from sparkscore.runtime.models import PinnedModel, pin
from sparkscore.spec.fields import located
from sparkscore.spec.scoring import ModelFile, ModelRef

__all__ = ["encoder_files", "model_from_json", "model_to_json", "pin_model", "repin"]


def encoder_files(pipeline: Any) -> dict[str, str]:
    """Map each tokenizer, vocabulary and labels file, as written, to where it is.

    Relative names are relative to the pipeline file's folder.
    """
    written = []
    for parts in pipeline.inputs.values():
        for part in parts:
            written += [v for k in ("tokenizer", "vocabulary") if isinstance(v := getattr(part, k, None), str)]
    for output in (pipeline.outputs or {}).values():
        written += [value for step, value in output.then if step == "labels" and isinstance(value, str)]
    return {name: located(name, pipeline.folder) for name in dict.fromkeys(written)}


def pin_model(pipeline: Any) -> PinnedModel:
    """Resolve the model's URI to a version and to bytes; a relative path is relative to the pipeline file's folder."""
    uri = located(pipeline.model.uri, pipeline.folder)
    return pin(uri, encoder_files=encoder_files(pipeline), allow_links=pipeline.model.allow_links)


def repin(pipeline: Any, planned: dict[str, Any]) -> PinnedModel:
    """Take the plan's model for another attempt: the same bytes, whatever the URI's alias says by now.

    Raises
    ------
    ModelError
        `SPS-MODEL-DIGEST` when the bytes are not to be had any more.
    """
    ref = model_from_json(planned)
    if ref.location.startswith("artifact:"):
        # The registry is asked for the version that the alias meant at the plan; only the digest counts.
        uri, links = ref.location.removeprefix("artifact:"), pipeline.model.allow_links
        found = pin(uri, encoder_files=encoder_files(pipeline), allow_links=links)
        if found.ref.sha256 != ref.sha256:
            raise error(
                "SPS-MODEL-DIGEST",
                f"Expected the planned model {ref.sha256[:12]}. Got {found.ref.sha256[:12]} at {ref.uri}.",
                "Restore the planned version, or start a new run id.",
            )
        return replace(found, ref=ref)
    folder = cache.local_folder(ref)
    names = [f.path for f in ref.files if f.source]
    # This driver may stand on another machine than the one that planned.
    return PinnedModel(ref, folder, dict(zip(encoder_files(pipeline), names, strict=True)), admit(ref, folder).flags)


def model_to_json(ref: ModelRef) -> dict[str, Any]:
    """The model as the plan keeps it."""
    return asdict(ref)


def model_from_json(data: dict[str, Any]) -> ModelRef:
    """The model of a plan."""
    return ModelRef(**{**data, "files": tuple(ModelFile(**f) for f in data["files"])})
