"""Binds pipelines that differ in one thing from a plain one: what the tests of binding share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models

from sparkscore.errors import SparkscoreError
from sparkscore.runtime.binding import Binding, bind
from sparkscore.runtime.loading import Signature, TensorInfo
from sparkscore.runtime.models import PinnedModel
from sparkscore.spec.pipeline import load_pipeline
from sparkscore.spec.scoring import ModelRef

SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "a": pa.float32(),
        "b": pa.float64(),
        "n": pa.int32(),
        "flag": pa.bool_(),
        "price": pa.decimal128(10, 2),
        "Carrier": pa.string(),
        "day": pa.date32(),
        "ts": pa.timestamp("us", "UTC"),
        "raw": pa.binary(),
        "v": pa.list_(pa.float32()),
        "vv": pa.list_(pa.list_(pa.float64())),
        "words": pa.list_(pa.string()),
        "dims": pa.list_(pa.int32()),
        "s": pa.struct({"x": pa.float32(), "y": pa.list_(pa.float32())}),
        "nothing": pa.null(),
        "m": pa.map_(pa.string(), pa.float32()),
    }
)
X3 = [("x", "float32", (None, 3))]
Y2 = [("y", "float32", (None, 2))]


class Bench:
    """A model folder with the encoders' files that the tests name, and a plain pipeline."""

    def __init__(self, folder: Path) -> None:
        (folder / "vocabulary.txt").write_text("AA\nB6\nDL\n")
        (folder / "labels.txt").write_text("no\nyes\n")
        Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
        (folder / "broken.json").write_text("{}")
        paths = {name: name for name in ("vocabulary.txt", "labels.txt", "tokenizer.json", "broken.json")}
        self.model = PinnedModel(ModelRef("file:m", "1", "0" * 64, "m", "model.onnx", ()), folder, paths)

    def __call__(
        self,
        inputs: Any,
        outputs: Any = None,
        graph: Any = X3,
        gives: Any = Y2,
        schema: pa.Schema = SCHEMA,
        **keys: Any,
    ) -> Binding:
        document = {
            "version": 1,
            "name": "p",
            "source": {"format": "delta", "location": "in"},
            "model": {"uri": "m.onnx"},
            "inputs": inputs,
            "outputs": outputs,
            "sink": {"format": "delta", "location": "out"},
            **keys,
        }
        pipeline = load_pipeline({k: v for k, v in document.items() if v is not None})
        signature = Signature(*(tuple(TensorInfo(*one) for one in tensors) for tensors in (graph, gives)))
        return bind(pipeline, self.model, signature, schema)

    def refusal(self, *args: Any, **keys: Any) -> SparkscoreError:
        with pytest.raises(SparkscoreError) as caught:
            self(*args, **keys)
        return caught.value


def one(dtype: str, *shape: int | None) -> list[tuple[str, str, tuple[int | None, ...]]]:
    return [("x", dtype, shape)]
