"""The frozen plan that a worker receives: which columns feed which tensors, and which tensors become which columns.

Made on the driver by `sparkscore.runtime.binding`, pickled into the task (a few KB), read by the scorer.
This module imports nothing beyond the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# Helper columns that an adapter may add to the batches it feeds. The scorer drops them from the result.
CORRUPT_COL = "_ss_corrupt"  # string: the malformed CSV or JSON line, null for a good one
DROPPED_COL = "_ss_dropped"  # int32: index of the first prepare `where` that dropped the row, null when kept
FILE_COL = "_ss_file"  # string: URI of the row's file
ROW_COL = "_ss_row"  # int64: index of the row in its file (Parquet); null or absent where the format has none
BLOCK_COL = "_ss_block"  # int64: byte offset of the row's split, for formats without a row index
HELPER_COLS = (CORRUPT_COL, DROPPED_COL, FILE_COL, ROW_COL, BLOCK_COL)
ERR_COL = "err"  # the nullable error struct that the scorer adds after the outputs
POINTER_COL = "_ss_pointer"  # string: the row's address on every row, only under `pointers="all"`, just before `err`


@dataclass(frozen=True)
class Missing:
    """What happens to null, NaN and infinity in a fed column (`pipeline.md` §5)."""

    null: Literal["error", "nan", "fill"] = "error"
    nan: Literal["allow", "error"] = "allow"
    inf: Literal["error", "allow"] = "error"
    fill: float | int | bool | str | None = None
    range: tuple[float | None, float | None] | None = None
    max_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True)
class Part:
    """One part of a graph input: it turns one or several columns into a block of shape (n, width) or (n, *shape)."""

    columns: tuple[str, ...]
    missing: Missing = Missing()


@dataclass(frozen=True)
class Numbers(Part):
    """Scalar columns (number, bool, or string for string tensors), packed side by side to (n, len(columns))."""


@dataclass(frozen=True)
class Tensor(Part):
    """One list, nested-list, fixed-size-list or little-endian binary column; a row is one array of `shape`.

    `shape` holds None for free dimensions; `shape_column` names an integer-list column that gives the row's shape.
    """

    shape: tuple[int | None, ...] = ()
    shape_column: str | None = None


@dataclass(frozen=True)
class Category(Part):
    """One string or integer column, looked up in a vocabulary; `unknown` is the index of unknown values, or None.

    The vocabulary is given inline, or as a file (one entry a line) of the model's folder, relative to it.
    """

    vocabulary: tuple[str, ...] = ()
    vocabulary_file: str | None = None
    unknown: int | None = None
    one_hot: bool = False


@dataclass(frozen=True)
class Text(Part):
    """One string column, tokenised by a Hugging Face `tokenizer.json` of the model's folder."""

    tokenizer: str = ""
    max_tokens: int = 512
    field: Literal["ids", "attention_mask", "type_ids"] = "ids"
    overlong: Literal["cut", "error"] = "cut"


@dataclass(frozen=True)
class Image(Part):
    """One binary column of an encoded image, decoded to RGB, resized to (height, width), scaled and normalised.

    value = (pixel * scale - mean[c]) / std[c], in float32, then cast to `dtype`; `layout` orders the axes.
    `decode="scaled"` lets a JPEG be decoded at a half, a quarter or an eighth of its size before it is resized.
    """

    size: tuple[int, int] = (224, 224)
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: str = "float32"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    decode: Literal["full", "scaled"] = "full"


@dataclass(frozen=True)
class InputPlan:
    """One graph input: its name, numpy dtype ('float32' …, 'str' for string tensors) and row shape, and its parts.

    A row shape of () means the graph wants (n,); None marks a free dimension.
    """

    name: str
    dtype: str
    row_shape: tuple[int | None, ...]
    parts: tuple[Part, ...]


Step = tuple[str, object]  # ("softmax", None), ("top_k", 5), ("labels", ("a", "b")), ("index", "[:, 1]") …


@dataclass(frozen=True)
class OutputPlan:
    """One result column: the graph output, an index, the steps after it, and how it is written.

    `dtype` and `rank` describe a row's value after the steps: rank 0 is a scalar, rank k a k-deep nested list;
    dtype is a numpy name, 'str', or 'top_k:<dtype>' / 'top_k:<dtype>:labels' for the pairs that top_k makes.
    """

    column: str
    output: str
    dtype: str
    rank: int
    index: str | None = None
    then: tuple[Step, ...] = ()
    encode: Literal["nested", "flat", "binary"] = "nested"
    allow_nan: bool = False
    range: tuple[float | None, float | None] | None = None


@dataclass(frozen=True)
class ModelFile:
    """One file of a pinned model: path relative to the model's folder, size, and sha256 in hex.

    `source` is where it is fetched from when that is not the model's own location: encoders' files lie elsewhere.
    """

    path: str
    size_bytes: int
    sha256: str
    source: str = ""


@dataclass(frozen=True)
class ModelRef:
    """A model pinned to bytes: everything a worker needs to fetch and verify it.

    `location` is where workers fetch it from: a folder path or URI that they can read, or ``artifact:<name>`` for
    files that the driver handed out through Spark. `sha256` is the digest of the canonical manifest of `files`.
    """

    uri: str
    version: str
    sha256: str
    location: str
    main: str
    files: tuple[ModelFile, ...]


@dataclass(frozen=True)
class SessionPlan:
    """How the ONNX Runtime session is made: device policy, threads, precision, options per provider.

    `weights` is "lean" where the session computes on the weights as they are in the file, not on packed copies.
    """

    device: Literal["cpu", "cuda", "tensorrt", "auto"] = "cpu"
    threads: int = 1
    precision: str = "as_is"
    weights: Literal["fast", "lean"] = "fast"
    providers: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    load_timeout_s: float = 600.0


@dataclass(frozen=True)
class ErrorPlan:
    """The part of `on_error` that a task enforces itself."""

    policy: Literal["quarantine", "fail"] = "quarantine"
    max_bad_rows: int | None = None  # the run's budget is certainly broken beyond it
    max_consecutive_bad_batches: int | None = 3  # None: any number
    batch_timeout_s: float = 60.0
    grace_s: float = 5.0
    no_progress_s: float | None = None  # None: a task may stand still for ever
    guard: Literal["auto", "always", "off"] = "auto"
    max_guard_deaths: int = 64


@dataclass(frozen=True)
class Sealing:
    """What encrypts the payloads of a unit's bad rows; each is bound to its row's address in this run and unit."""

    key: bytes = field(repr=False)
    run_id: str = ""
    unit_id: str = ""


@dataclass(frozen=True)
class ScoringPlan:
    """Everything that turns a batch of columns into a batch of scores.

    `keep` are the columns passed through, in order; the result of the scorer is keep + outputs + `err`.
    `batch_size` is the rows of one model call, None for auto. `fixed_batch` is the graph's own fixed batch axis:
    rows are cut to it and the last part is padded. It is 1, too, where the graph's inputs have no axis for rows at all
    (as many axes as `row_shape`): a call is then one row, fed without that axis. `prove_batch` makes the first batch
    prove that rows do not depend on their neighbours. `pointers="all"` adds each row's address as `_ss_pointer` before
    `err`, for runs whose rows have no keys. `deny` are columns that no payload holds; under
    `payload="encrypted"` there is a payload only with a `sealing`. `decoder` are the packages that turn images into
    pixels, as `sparkscore.runtime.encoders.decoders` names them; "" is what the worker has.
    """

    model: ModelRef
    inputs: tuple[InputPlan, ...]
    outputs: tuple[OutputPlan, ...]
    keep: tuple[str, ...]
    keys: tuple[str, ...] = ()
    session: SessionPlan = field(default_factory=SessionPlan)
    on_error: ErrorPlan = field(default_factory=ErrorPlan)
    batch_size: int | None = None
    fixed_batch: int | None = None
    prove_batch: bool = False
    payload: Literal["none", "hash", "encrypted", "plain"] = "hash"
    deny: tuple[str, ...] = ()
    sealing: Sealing | None = None
    pointers: Literal["errors", "all"] = "errors"
    decoder: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the model reads, each once, in the order of first use."""
        names: dict[str, None] = {}
        for plan in self.inputs:
            for part in plan.parts:
                names.update(dict.fromkeys(part.columns))
                if isinstance(part, Tensor) and part.shape_column:
                    names[part.shape_column] = None
        return tuple(names)
