"""A pipeline, a pinned model's signature and the source's columns into the frozen plan that workers get.

Everything that cannot work is refused here, on the driver, before a row is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.binding_inputs import BoundInput, Columns, bind_input, shape_text
from sparkscore.runtime.casts import TENSOR_TYPES
from sparkscore.runtime.encoders.decoders import installed_decoder
from sparkscore.runtime.encoders.lines import read_lines
from sparkscore.runtime.loading import Signature, TensorInfo
from sparkscore.runtime.models import PinnedModel
from sparkscore.runtime.steps import STEPS, Value, parse_index
from sparkscore.spec.fields import near
from sparkscore.spec.pipeline import Entry, OutputEntry, Pipeline
from sparkscore.spec.scoring import (
    ERR_COL,
    HELPER_COLS,
    POINTER_COL,
    ErrorPlan,
    Image,
    InputPlan,
    OutputPlan,
    ScoringPlan,
    SessionPlan,
    Step,
    Text,
)

__all__ = ["Binding", "bind"]

_STAR = "*"
_STAR_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_SS = "_ss"
_RESERVED = (_SS, ERR_COL, POINTER_COL, *HELPER_COLS)


@dataclass(frozen=True)
class Binding:
    """The plan, and what the run should say about it: columns that lose precision, and other warnings."""

    plan: ScoringPlan
    narrowing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def bind(pipeline: Pipeline, model: PinnedModel, signature: Signature, schema: pa.Schema) -> Binding:
    """Bind a pipeline to a model and a source.

    Parameters
    ----------
    pipeline : Pipeline
    model : PinnedModel
        With the encoders' files in its folder.
    signature : Signature
        What the graph asks for and gives.
    schema : pyarrow.Schema
        Of the prepared source, without helper columns.

    Returns
    -------
    Binding
        Columns stand in the plan under their own names; fields of structs under the reference as written.

    Raises
    ------
    SpecError
        SPS-SPEC-COLUMN, -TYPE, -INPUT, -OUTPUT, -VALUE, -COLLISION.
    ModelError
        SPS-MODEL-TYPE: a graph input or output that cannot be scored. SPS-MODEL-ENCODER: an encoder's file.
    ClusterError
        SPS-ENV-PACKAGE: an input of images, and no Pillow.
    """
    _check_types(signature)
    columns = Columns(schema)
    entries = _entries(pipeline, signature)
    bound = [bind_input(tensor, entries[tensor.name], pipeline, model, columns) for tensor in signature.inputs]
    inputs = tuple(one.plan for one in bound)
    fixed_batch, batch_axis, warnings = _batch(signature.inputs, bound)
    outputs, said = _outputs(pipeline, model, signature, inputs, batch_axis)
    keys = tuple(columns.name(key) for key in pipeline.keys)
    keep, dropped = _keep(pipeline, columns, keys)
    _check_collisions([*keep], [plan.column for plan in outputs])
    plan = ScoringPlan(
        model=model.ref,
        inputs=inputs,
        outputs=outputs,
        keep=keep,
        keys=keys,
        session=_session(pipeline),
        on_error=_on_error(pipeline),
        batch_size=pipeline.model.batch_size,
        fixed_batch=fixed_batch,
        payload=pipeline.quarantine.payload,
        deny=tuple(columns.name(name) for name in pipeline.quarantine.deny),
        decoder=installed_decoder() if any(isinstance(part, Image) for one in inputs for part in one.parts) else "",
    )
    narrowing = tuple(dict.fromkeys(message for one in bound for message in one.narrowing))
    return Binding(plan, narrowing, (*warnings, *said, *dropped, *_tf32_of_tensorrt(plan.session)))


# -- inputs --------------------------------------------------------------------------------------------


def _check_types(signature: Signature) -> None:
    """Refuse a graph with inputs that are no plain tensors, or outputs of number types that numpy lacks."""
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for tensor in tensors:
            if tensor.dtype in TENSOR_TYPES or (kind == "output" and tensor.dtype.startswith(("seq", "map"))):
                continue
            message = f"Expected tensors of {', '.join(TENSOR_TYPES)}. Got {kind} {tensor.name!r}: {tensor.dtype}."
            fix = "Export the model again with a type of the list, for example with a Cast node at its edge."
            raise error("SPS-MODEL-TYPE", message, fix, **{kind: tensor.name})


def _entries(pipeline: Pipeline, signature: Signature) -> dict[str, tuple[Entry, ...]]:
    """Give the entries of each graph input, with ``*`` spread over the inputs of a text model."""
    known = [tensor.name for tensor in signature.inputs]
    listed = f"The model's inputs: {_listed(signature.inputs)}."
    found: dict[str, tuple[Entry, ...]] = {name: parts for name, parts in pipeline.inputs.items() if name != _STAR}
    for name in found:
        if name not in known:
            message = f"Expected entries for inputs of the model, got one for {name!r}, which it lacks. {listed}"
            raise error("SPS-SPEC-INPUT", message, near(name, known) + "Rename or remove the entry.", input=name)
    star = pipeline.inputs.get(_STAR)
    if star is not None:
        spread = [name for name in _STAR_INPUTS if name in known]
        if not spread:
            message = f"Expected one of {', '.join(_STAR_INPUTS)} among the model's inputs for '*', got none. {listed}"
            raise error("SPS-SPEC-INPUT", message, "Name the inputs one by one, with `field:`.", input=_STAR)
        found = {**dict.fromkeys(spread, star), **found}
    unfed = [name for name in known if name not in found]
    if unfed:
        message = (
            f"Expected an entry for every input of the model, got none for {', '.join(map(repr, unfed))}. {listed}"
        )
        raise error("SPS-SPEC-INPUT", message, f"Add inputs.{unfed[0]}: with its columns.", input=unfed[0])
    return found


def _batch(tensors: Sequence[TensorInfo], bound: Sequence[BoundInput]) -> tuple[int | None, bool, list[str]]:
    """Give the fixed number of rows of one call, or None, and whether inputs have an axis for rows at all."""
    without = [one.plan.name for one in bound if not one.batch_axis]
    if without and len(without) < len(bound):
        message = f"Expected an axis for rows on all inputs or none, got none on {', '.join(without)}."
        raise error(
            "SPS-SPEC-INPUT", f"{message} The model's inputs: {_listed(tensors)}.", _FREE_AXIS, input=without[0]
        )
    if without:
        said = f"inputs have no axis for rows ({_listed(tensors)}): one model call a row, which is slow. {_FREE_AXIS}"
        return 1, False, [said]
    sizes = {tensor.shape[0] for tensor in tensors} - {None}
    if len(sizes) > 1:
        message = f"Expected one number of rows a call on all inputs, got {sorted(sizes)}."  # type: ignore[type-var]  # no None left
        raise error("SPS-MODEL-TYPE", f"{message} The model's inputs: {_listed(tensors)}.", _FREE_AXIS)
    size = next(iter(sizes), None)
    if size != 1:
        return size, True, []
    return 1, True, [f"the model takes one row a call ({_listed(tensors)}), which is slow. {_FREE_AXIS}"]


_FREE_AXIS = "Export the model with a free first axis (dynamic_axes) on its inputs."


# -- outputs -------------------------------------------------------------------------------------------


def _outputs(
    pipeline: Pipeline, model: PinnedModel, signature: Signature, inputs: Sequence[InputPlan], batch_axis: bool
) -> tuple[tuple[OutputPlan, ...], list[str]]:
    """Bind the selected outputs, or every tensor output under a column name made of its own."""
    mask = next((i.name for i in inputs if isinstance(i.parts[0], Text) and i.parts[0].field == "attention_mask"), None)
    warnings: list[str] = []
    chosen = pipeline.outputs
    if chosen is None:
        tensors = [tensor for tensor in signature.outputs if tensor.dtype in TENSOR_TYPES]
        skipped = [tensor for tensor in signature.outputs if tensor not in tensors]
        warnings = [f"output {t.name!r} ({t.dtype}) is no tensor and left out. {_NO_ZIPMAP}" for t in skipped]
        if not tensors:
            raise _no_tensor(signature.outputs[0])
        names = [_column_name(tensor.name) for tensor in tensors]
        entries = [(name, OutputEntry(output=tensor.name)) for name, tensor in zip(names, tensors, strict=True)]
    else:
        entries = list(chosen.items())
    plans = []
    for column, entry in entries:
        tensor = _selected(column, entry, signature)
        if batch_axis and tensor.shape and tensor.shape[0] is not None:
            warnings += _odd_rows(tensor, signature.inputs)
        plans.append(_output(column, entry, tensor if batch_axis else _with_rows(tensor), (model, mask)))
    return tuple(plans), warnings


_NO_ZIPMAP = (
    "Convert without ZipMap: to_onnx(model, X, options={'zipmap': False}) of skl2onnx, zipmap=False of onnxmltools."
)


def _no_tensor(tensor: TensorInfo) -> SparkscoreError:
    message = f"Expected a tensor as output {tensor.name!r}, got {tensor.dtype}."
    return error("SPS-MODEL-TYPE", message, _NO_ZIPMAP, output=tensor.name)


def _selected(column: str, entry: OutputEntry, signature: Signature) -> TensorInfo:
    known = [tensor.name for tensor in signature.outputs]
    listed = f"The model's outputs: {_listed(signature.outputs)}."
    if isinstance(entry.output, int):
        if entry.output >= len(known):
            message = f"Expected a position below {len(known)}, got {entry.output}. {listed}"
            raise error("SPS-SPEC-OUTPUT", message, "Count the outputs from 0.", column=column)
        tensor = signature.outputs[entry.output]
    elif entry.output not in known:
        message = f"Expected an output of the model, got {entry.output!r}, which it lacks. {listed}"
        raise error("SPS-SPEC-OUTPUT", message, near(entry.output, known) + "Name one of them.", column=column)
    else:
        tensor = signature.outputs[known.index(entry.output)]
    if tensor.dtype not in TENSOR_TYPES:
        raise _no_tensor(tensor)
    return tensor


def _odd_rows(tensor: TensorInfo, inputs: Sequence[TensorInfo]) -> list[str]:
    """Warn of an output that does not grow with the rows: exporters often freeze an axis that is free in truth."""
    if any(i.shape[:1] == tensor.shape[:1] for i in inputs):
        return []
    return [f"output {tensor.name!r} declares {tensor.shape[0]} rows whatever its input ({_listed([tensor])})."]


def _with_rows(tensor: TensorInfo) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.dtype, (None, *tensor.shape))


def _output(
    column: str, entry: OutputEntry, tensor: TensorInfo, model_and_mask: tuple[PinnedModel, str | None]
) -> OutputPlan:
    """Follow the type of a row's value through index and steps."""
    model, mask = model_and_mask
    shape = tensor.shape[1:]
    if not tensor.shape and entry.index is not None:  # no declared shape: as many axes as the index names
        shape = (None,) * (len(parse_index(entry.index)) - 1)
    value = Value(tensor.dtype, shape)
    then: list[Step] = []
    try:
        if entry.index is not None:
            value = STEPS["index"].gives(value, entry.index)
        for name, argument in entry.then:
            value, argument = _step(value, (name, argument), model, mask)
            then.append((name, argument))
    except SparkscoreError as refused:
        message = f"Column {column!r} of output {tensor.name!r}, {shape_text(tensor)}: {refused.message}"
        raise error(refused.code, message, refused.fix, column=column) from refused
    _check_output(column, entry, value)
    if entry.encode == "nested" and value.shape == (1,) and not value.ranked:
        value = replace(value, shape=())
    dtype = f"top_k:{value.dtype}" + (":labels" if value.labelled else "") if value.ranked else value.dtype
    return OutputPlan(
        column=column,
        output=tensor.name,
        dtype=dtype,
        rank=len(value.shape),
        index=entry.index,
        then=tuple(then),
        encode=entry.encode,
        allow_nan=entry.allow_nan,
        range=entry.range,
    )


def _step(value: Value, step: Step, model: PinnedModel, mask: str | None) -> tuple[Value, object]:
    """Give the type after a step, and the argument as workers need it."""
    name, argument = step
    if name == "labels" and isinstance(argument, str):
        path = model.encoder_paths[argument]
        return STEPS[name].gives(value, read_lines(model.folder / path)), path
    if name == "mean_pool":
        # Padding is not part of the text: the mean is taken over its own tokens.
        argument = mask
    return STEPS[name].gives(value, argument), argument


def _check_output(column: str, entry: OutputEntry, value: Value) -> None:
    if entry.encode != "nested" and (value.ranked or (value.dtype == "str" and entry.encode == "binary")):
        got = "the pairs of top_k" if value.ranked else "strings"
        message = f"Expected numbers for encode: {entry.encode} of column {column!r}, got {got}."
        raise error("SPS-SPEC-OUTPUT", message, "Leave `encode` out.", column=column)
    if entry.range is not None and value.dtype in ("str", "bool"):
        message = f"Expected numbers for the range of column {column!r}, got {value}."
        raise error("SPS-SPEC-OUTPUT", message, "Take the range out.", column=column)


def _column_name(output: str) -> str:
    """Make a column name of an output's: letters, digits and underscores, not starting with a digit.

    Examples
    --------
    >>> _column_name("gpu_0/softmax_1"), _column_name("1")
    ('gpu_0_softmax_1', 'output_1')
    """
    name = re.sub(r"\W+", "_", output).strip("_") or "output"
    return f"output_{name}" if name[0].isdigit() else name


# -- the rest ------------------------------------------------------------------------------------------


def _keep(pipeline: Pipeline, columns: Columns, keys: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """Give the columns that pass through, keys first, and a warning where an old `_ss` is dropped."""
    if pipeline.keep == "keys":
        return tuple(dict.fromkeys(keys)), []
    if pipeline.keep == "all":
        names = [f.name for f in columns.fields if f.name not in (_SS, *HELPER_COLS)]
        old = any(f.name == _SS for f in columns.fields)
        said = [f"column {_SS!r} of the input, from an earlier run, is dropped. Rename it in prepare to keep it."]
        return tuple(dict.fromkeys((*keys, *names))), said if old else []
    return tuple(dict.fromkeys((*keys, *(columns.name(name) for name in pipeline.keep)))), []


def _check_collisions(keep: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse two result columns of one name; Spark tells names apart without case."""
    seen = {name.lower(): f"sparkscore's own column {name!r}" for name in _RESERVED}
    named = [(name, f"kept column {name!r}") for name in keep] + [(name, f"output column {name!r}") for name in outputs]
    for name, what in named:
        if name.lower() in seen:
            message = f"Expected result columns of different names, got {what} beside {seen[name.lower()]}."
            fix = "Rename the output." if what.startswith("output") else "Rename the column in prepare: {rename: …}."
            raise error("SPS-SPEC-COLLISION", message, fix, column=name)
        seen[name.lower()] = what


def _session(pipeline: Pipeline) -> SessionPlan:
    model = pipeline.model
    return SessionPlan(
        device=model.device,
        precision=model.precision,
        weights="lean" if model.weights == "lean" else "fast",
        providers=tuple((name, tuple(options.items())) for name, options in model.providers.items()),
        load_timeout_s=pipeline.on_error.load_timeout_s,
    )


def _tf32_of_tensorrt(session: SessionPlan) -> list[str]:
    """Say that TensorRT multiplies in TF32, which no option of its provider turns off (onnxruntime 26029)."""
    if session.device != "tensorrt" or session.precision != "as_is":
        return []
    return [
        "device tensorrt multiplies float32 in TF32 on GPUs that have it, which no option of ONNX Runtime turns off: "
        "set NVIDIA_TF32_OVERRIDE=0 where workers start, or say precision: tf32, which measures the difference."
    ]


def _on_error(pipeline: Pipeline) -> ErrorPlan:
    policy = pipeline.on_error
    return ErrorPlan(
        policy=policy.policy,
        max_consecutive_bad_batches=policy.max_consecutive_bad_batches,
        batch_timeout_s=policy.batch_timeout_s,
        no_progress_s=policy.no_progress_s,
        guard=policy.guard,
        max_guard_deaths=policy.max_guard_deaths,
    )


def _listed(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{tensor.name} {shape_text(tensor)}" for tensor in tensors)
