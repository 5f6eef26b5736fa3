"""N1: texts of log-normal length, a WordPiece tokenizer and a small encoder; the graph itself tells the tokens it computed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from benchmarks.workload import SEED, Arrays, Workload, save, session

MAX_TOKENS = 512
_WORDS, _WIDTH, _HEADS = 8000, 64, 4
_PADDING, _CLS, _SEP = 0, 2, 3


class N1(Workload):
    """Short texts: median 60 tokens, mean 81 (performance.md §9).

    The graph gives, beside the score, the columns of the call that a row was in (`width`) and its own tokens: their sums
    are computed and real tokens, whoever calls the model and wherever.
    """

    name = "N1"
    title = "texts of log-normal length (median 60 tokens, at most 512), a transformer block of width 64"
    sizes = (2_000, 10_000)
    columns = ["text"]
    results = {"p": "p", "width": "width", "tokens": "tokens"}
    unit = "text"
    group_rows = 10_000
    token_budget = 16_384
    longest_over_shortest = 1.1  # docs/decisions/0032

    def write_model(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer().save(str(folder / "tokenizer.json"))
        return write_encoder(folder / "encoder.onnx")

    def table(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        lengths = np.clip(rng.lognormal(np.log(60), 0.775, rows), 1, MAX_TOKENS - 2).astype(int)
        words = np.array(_words())
        picks = words[rng.integers(0, len(words), lengths.sum())]
        return {"text": [" ".join(part) for part in np.split(picks, np.cumsum(lengths)[:-1])]}

    def inputs(self, model: str) -> dict[str, Any]:
        text = {"text": "text", "tokenizer": str(Path(model).with_name("tokenizer.json")), "max_tokens": MAX_TOKENS}
        return {name: {**text, "field": field} for name, field in (("ids", "ids"), ("mask", "attention_mask"))}

    def scores(self, columns: Arrays, model: str) -> list[np.ndarray]:
        """Tokenise what is given in one call, sort it by length, and cut it where padding would begin to cost."""
        encodings = _loaded(model).encode_batch_fast(columns[0].to_pylist())
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        found = [np.empty(len(lengths), kind) for kind in (np.float32, np.int64, np.int64)]
        for rows in self.calls(lengths):
            ids = np.full((len(rows), lengths[rows].max()), _PADDING, np.int64)
            places = np.arange(ids.shape[1]) < lengths[rows][:, None]
            ids[places] = np.concatenate([encodings[row].ids for row in rows])
            feeds = {"ids": ids, "mask": places.astype(np.int64)}
            for array, output in zip(found, session(model).run(list(self.results), feeds), strict=True):
                array[rows] = output[:, 0]
        return found

    def calls(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Give the rows of each call (performance.md §9, docs/decisions/0032)."""
        order = np.argsort(lengths, kind="stable")
        first = 0
        for end in range(1, len(order) + 1):
            if end < len(order):
                n, longest, shortest = end - first + 1, lengths[order[end]], lengths[order[first]]
                uneven = longest > self.longest_over_shortest * shortest and n > 8
                if n * longest <= self.token_budget and not uneven:
                    continue
            yield order[first:end]
            first = end


class N1Arrival(N1):
    """As it is mostly written: 32 texts a call as they come, padded to their longest."""

    def calls(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        rows = np.arange(len(lengths))
        return (rows[start : start + 32] for start in range(0, len(rows), 32))


@cache
def _words() -> list[str]:
    rng = np.random.default_rng(SEED)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    found: dict[str, None] = {}
    while len(found) < _WORDS:
        found["".join(rng.choice(letters, rng.integers(3, 10)))] = None
    return list(found)


def tokenizer() -> Any:
    """Make a WordPiece tokenizer that knows each word, in the form of BERT."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_words()]
    made = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", _SEP), ("[CLS]", _CLS))
    return made


@cache
def _loaded(model: str) -> Any:
    from tokenizers import Tokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loaded = Tokenizer.from_file(str(Path(model).with_name("tokenizer.json")))
    loaded.enable_truncation(MAX_TOKENS)
    loaded.no_padding()
    return loaded


class _Graph:
    """Nodes and weights as they come."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.rng = np.random.default_rng(SEED)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def value(self, array: Any, kind: Any = np.int64) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, kind), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.value(self.rng.normal(0, shape[0] ** -0.5, shape), np.float32)

    def linear(self, x: str, rows: int, cols: int) -> str:
        return self("Add", self("MatMul", x, self.weight(rows, cols)), self.value(np.zeros(cols), np.float32))

    def norm(self, x: str) -> str:
        one, zero = (self.value(np.full(_WIDTH, v), np.float32) for v in (1, 0))
        return self("LayerNormalization", x, one, zero)


def write_encoder(path: Path) -> Path:
    """Write ids (n, length), mask (n, length) -> p, width, tokens, each (n, 1)."""
    g = _Graph()
    length = g("Slice", g("Shape", "ids"), g.value([1]), g.value([2]))
    places = g("Slice", g.weight(MAX_TOKENS, _WIDTH), g.value([0]), length, g.value([0]))
    x = g.norm(g("Add", g("Gather", g.weight(_WORDS + 4, _WIDTH), "ids"), places))
    real = g("Cast", "mask", to=TensorProto.FLOAT)
    absent = g("Mul", g("Sub", g.value(1, np.float32), real), g.value(-1e9, np.float32))
    bias = g("Unsqueeze", absent, g.value([1, 2]))
    x = g.norm(g("Add", x, _attention(g, x, bias)))
    inner = g("Relu", g.linear(x, _WIDTH, 4 * _WIDTH))
    x = g.norm(g("Add", x, g.linear(inner, 4 * _WIDTH, _WIDTH)))
    kept = g("Mul", x, g("Unsqueeze", real, g.value([2])))
    tokens = g("ReduceSum", "mask", g.value([1]), keepdims=1)
    mean = g("Div", g("ReduceSum", kept, g.value([1]), keepdims=0), g("Cast", tokens, to=TensorProto.FLOAT))
    g.nodes += [
        helper.make_node("Sigmoid", [g.linear(mean, _WIDTH, 1)], ["p"]),
        helper.make_node("Identity", [tokens], ["tokens"]),
        helper.make_node("Add", [g("Sub", tokens, tokens), length], ["width"]),
    ]
    given = {name: (TensorProto.INT64, ["n", "length"]) for name in ("ids", "mask")}
    whole = {name: (TensorProto.INT64, ["n", 1]) for name in ("width", "tokens")}
    return save(path, g.nodes, g.weights, given, {"p": (TensorProto.FLOAT, ["n", 1]), **whole})


def _attention(g: _Graph, x: str, bias: str) -> str:
    heads = g.value([0, 0, _HEADS, _WIDTH // _HEADS])
    q, k, v = (g("Reshape", g.linear(x, _WIDTH, _WIDTH), heads) for _ in range(3))
    q, v = (g("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    scaled = g("Mul", q, g.value((_WIDTH // _HEADS) ** -0.5, np.float32))
    weights = g("Softmax", g("Add", g("MatMul", scaled, g("Transpose", k, perm=[0, 2, 3, 1])), bias), axis=-1)
    mixed = g("Transpose", g("MatMul", weights, v), perm=[0, 2, 1, 3])
    return g.linear(g("Reshape", mixed, g.value([0, 0, _WIDTH])), _WIDTH, _WIDTH)


def ratio(results: pa.Table) -> float:
    """Computed tokens over real ones."""
    return float(np.sum(results["width"]) / np.sum(results["tokens"]))
