"""The pipeline file as one frozen `Pipeline`: every key known, typed and checked before anything is read or run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from sparkscore.errors import SparkscoreError
from sparkscore.spec.complaints import to_spec_error
from sparkscore.spec.document import is_path, read_document
from sparkscore.spec.entries import CategoryEntry, ColumnsEntry, Entry, ImageEntry, Missing, Parts, TextEntry
from sparkscore.spec.expressions import render
from sparkscore.spec.fields import Closed, Flag, Later, Option, Place, Positive, Text, Uri, later, refused
from sparkscore.spec.limits import Limits
from sparkscore.spec.results import OnError, OutputEntry, Quarantine
from sparkscore.spec.sink import Sink
from sparkscore.spec.source import Source, Step

__all__ = [
    "CategoryEntry",
    "ColumnsEntry",
    "Entry",
    "ImageEntry",
    "Limits",
    "Missing",
    "Model",
    "OnError",
    "OutputEntry",
    "Pipeline",
    "Quarantine",
    "Sink",
    "Source",
    "Step",
    "TextEntry",
    "load_pipeline",
    "to_document",
]


# Where a precision changes something; on a CPU, where auto may end, none does.
_DEVICES_OF = {"tf32": ("cuda", "tensorrt"), "fp16": ("tensorrt",)}
_MEND_DEVICE = {
    "tf32": "Name the device, for example `device: cuda`; on a CPU, where auto may end, nothing computes in TF32.",
    "fp16": "Write `device: tensorrt`. ONNX Runtime has no switch for it on CUDA: there, convert the graph to float16 "
    "beforehand and score it as_is.",
}
# Options of ONNX Runtime's CUDA and TensorRT providers that choose the format of numbers.
_FORMAT_OPTIONS = ("use_tf32", "trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable")


def _batch_size(value: Any) -> Any:
    return None if value == "auto" else value


class Model(Closed):
    """The model, and how its session runs; `batch_size` None is auto."""

    uri: Uri
    device: Literal["cpu", "cuda", "tensorrt", "auto"] = "cpu"
    batch_size: Annotated[Positive | None, BeforeValidator(_batch_size)] = None
    precision: Annotated[Literal["as_is", "tf32", "fp16"], later("int8")] = "as_is"
    weights: Literal["auto", "fast", "lean"] = "auto"
    golden: Uri | None = None
    verify: Annotated[Literal["digest"], later("oms")] = "digest"
    allow_links: Flag = False
    providers: dict[Text, dict[Text, Option]] = {}

    @model_validator(mode="after")
    def _precise(self) -> Model:
        """Let `precision` alone choose the format of numbers, where it has an effect, and only where it is measured."""
        for name, options in self.providers.items():
            for option in options:
                if option in _FORMAT_OPTIONS:
                    message = f"Expected the format of numbers in model.precision alone, got the option {option!r}"
                    fix = "Take it out; `precision: tf32` or `precision: fp16` sets it, and measures what it changes."
                    raise refused("SPS-SPEC-VALUE", message, fix, f"model.providers.{name}.{option}")
        devices = _DEVICES_OF.get(self.precision)
        if devices is None:
            return self
        if self.device not in devices:
            message = f"Expected device {' or '.join(devices)} for precision {self.precision}, got {self.device}"
            raise refused("SPS-SPEC-VALUE", message, _MEND_DEVICE[self.precision], "model.precision")
        if self.golden is None:
            fix = f"Write `golden:` with rows to measure how far {self.precision} is from float32, or score as_is."
            raise refused("SPS-SPEC-KEY", f"Key 'golden' is missing beside precision {self.precision}", fix, "model")
        return self


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def _name(value: Any) -> Any:
    if isinstance(value, str) and not _NAME.fullmatch(value):
        message = f"Expected a name of letters, digits, '_', '.' and '-' (it becomes part of run ids), got {value!r}"
        raise refused("SPS-SPEC-VALUE", message, "Write, for example, `name: fraud`.")
    return value


def _keep(value: Any) -> Any:
    if isinstance(value, str) and value not in ("keys", "all"):
        fix = f"Write `keep: [{value}]`, or keys, or all."
        raise refused("SPS-SPEC-VALUE", f"Expected keys, all or a list of columns, got {value!r}", fix)
    if not isinstance(value, str | list | tuple) or not all(isinstance(v, str) and v for v in value):
        fix = "Write `keep: [a, b]`, or keys, or all."
        raise refused("SPS-SPEC-VALUE", f"Expected keys, all or a list of columns, got {value!r}", fix)
    return value if isinstance(value, str) else _once(tuple(value))


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise refused("SPS-SPEC-VALUE", f"Expected different names, got {twice[0]!r} twice", "Name each column once.")
    return names


_Names = Annotated[tuple[Text, ...], AfterValidator(_once)]


def _beside(sink: str) -> str:
    return sink.rstrip("/") + "_ledger"


class Pipeline(Closed):
    """One pipeline file; fields are named as its keys."""

    version: Literal[1]
    name: Annotated[Text, BeforeValidator(_name)]
    source: Source
    prepare: tuple[Step, ...] = ()
    model: Model
    inputs: Annotated[dict[Text, Parts], Field(min_length=1)]
    outputs: Annotated[dict[Text, OutputEntry] | None, Field(min_length=1)] = None
    missing: Missing = Missing()
    keys: _Names = ()
    keep: Annotated[Literal["keys", "all"] | tuple[str, ...], BeforeValidator(_keep)] = "keys"
    on_error: OnError = OnError()
    sink: Sink
    quarantine: Quarantine = Quarantine()
    ledger: Place = ""
    limits: Limits = Limits()
    stream: Later = None
    audit: Later = None
    scan: Literal["auto", "fused", "map_in_arrow"] = "auto"
    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @property
    def folder(self) -> Path:
        """The folder of the file, from which relative files of encoders are found."""
        return self._folder

    @property
    def places(self) -> tuple[str, ...]:
        """Where Spark reads and writes: source, sink, quarantine and ledger."""
        sources, others = self.source.location or (), (self.sink.location, self.quarantine.location, self.ledger)
        return tuple(place for place in (*sources, *others) if place)

    @classmethod
    def expanded(cls, value: Any) -> Any:
        """Fill `ledger` from the sink's location."""
        sink = value.get("sink") if isinstance(value, Mapping) else None
        location = sink.get("location") if isinstance(sink, Mapping) else getattr(sink, "location", None)
        if isinstance(location, str) and value.get("ledger") is None:
            return {**value, "ledger": _beside(location)}
        return value

    @model_validator(mode="after")
    def _together(self) -> Pipeline:
        if not self.ledger:
            fix = "Write `ledger:` with a folder; only a sink with a location gives one by itself."
            raise refused("SPS-SPEC-KEY", "Key 'ledger' is missing", fix, "ledger")
        sink = f"{self.sink.location}".rstrip("/") + "/"
        for key, place in (("ledger", self.ledger), ("quarantine.location", self.quarantine.location)):
            if place and (place.rstrip("/") + "/").startswith(sink):
                message = f"Expected {key} beside the sink, got {place!r} inside it"
                fix = f"Write, for example, `{_beside(sink)}`."
                raise refused("SPS-SPEC-VALUE", message, fix, key)
        for name, parts in self.inputs.items():
            self._check_input(name, parts)
        return self

    def _check_input(self, name: str, parts: tuple[Entry, ...]) -> None:
        at = f"inputs.{name}"
        if name == "*" and not (len(parts) == 1 and isinstance(parts[0], TextEntry) and parts[0].field is None):
            fix = 'Write `"*": {text: review, tokenizer: tokenizer.json}`, or name the graph input.'
            raise refused("SPS-SPEC-VALUE", "Expected one text entry without a field for '*'", fix, at)
        for part in parts:
            policy = part.null or self.missing.null
            fill = part.fill if part.fill is not None else self.missing.fill
            if policy == "fill" and fill is None:
                message = "Expected a value to fill in for null: fill, got none"
                raise refused("SPS-SPEC-VALUE", message, "Write `fill:` beside it, for example `fill: 0`.", at)
            if policy != "fill" and part.fill is not None:
                message = f"Expected fill only with null: fill, got it with null: {policy}"
                raise refused("SPS-SPEC-VALUE", message, "Write `null: fill` beside it, or take `fill` out.", at)

    def expressions(self) -> Iterator[tuple[str, str]]:
        """Give every SQL expression with the path of its key."""
        if self.sink.replace_where:
            yield "sink.replace_where", self.sink.replace_where
        if self.source.where:
            yield "source.where", self.source.where
        for i, step in enumerate(self.prepare):
            if step.where:
                yield f"prepare[{i}].where", step.where
            for name, expression in (step.with_ or {}).items():
                yield f"prepare[{i}].with.{name}", expression


def load_pipeline(
    source: str | Path | Mapping[str, Any], sets: Mapping[str, str] | None = None, folder: Path | None = None
) -> Pipeline:
    """Read a pipeline file, its text, or a mapping, into a checked `Pipeline`.

    Parameters
    ----------
    source : str, Path or mapping
        A path of a YAML or JSON file, the text of one, or the document itself.
    sets : mapping of str to str, optional
        ``--set`` of the command line: ``a.b`` overrides a key, ``name`` fills ``${name}``.
    folder : Path, optional
        Where relative files are, for a document that is not in a file. Default: the current folder.

    Raises
    ------
    SpecError
        SPS-SPEC-FILE, -KEY, -VALUE, -LATER, -VARIABLE or -EXPRESSION, with the key's path.
    """
    try:
        pipeline = _checked(read_document(source, sets))
    except SparkscoreError as failure:
        if is_path(source):
            failure.context.setdefault("file", str(source))
        raise
    if is_path(source):
        pipeline._folder = Path(str(source)).resolve().parent
    elif folder is not None:
        pipeline._folder = folder
    return pipeline


def to_document(pipeline: Pipeline) -> dict[str, Any]:
    """Give a document that loads to the same pipeline: variables stay filled, defaults are left out."""
    found = pipeline.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    escaped: dict[str, Any] = json.loads(json.dumps(found).replace("${", "$${"))
    return escaped


def _checked(document: dict[str, Any]) -> Pipeline:
    try:
        pipeline = Pipeline.model_validate(document)
    except ValidationError as failure:
        raise to_spec_error(failure, document) from None
    for path, expression in pipeline.expressions():
        render(expression, path)
    return pipeline
