"""A workload: rows in Parquet files, an ONNX model, and how a hand-written loop feeds the one with the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

LAYERS = (30, 64, 32, 1)
SEED = 7
Arrays = Sequence[pa.Array]


class Workload(ABC):
    """What the arms share: they differ in how the rows reach `scores`, and in where these go.

    Attributes
    ----------
    name, title : str
        As in the report.
    sizes : tuple of int
        Rows of the two inputs.
    columns : list of str
        What the model reads; every input also has an `id`, int64 from 0.
    results : dict of str
        Result column -> graph output, a (n, 1) tensor.
    call_rows : int
        Most rows of one model call of a hand-written loop.
    read_rows : int
        Rows that the raw loop reads at once.
    unit : str
        What a row is: row, text, image.
    files : int
        Files of the input; a row group has `group_rows`.
    """

    name: str
    title: str
    sizes: tuple[int, int]
    columns: list[str]
    results: Mapping[str, str] = {"p": "p"}
    call_rows = 10_000
    read_rows = 8192
    unit = "row"
    files = 2
    group_rows = 100_000

    @abstractmethod
    def write_model(self, folder: Path) -> Path:
        """Write the model, and the files of its encoders, into a folder."""

    @abstractmethod
    def table(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        """Give the columns of so many rows, fresh random ones."""

    def feeds(self, columns: Arrays, model: str) -> dict[str, np.ndarray]:
        """Give the graph's inputs; only `scores` asks, and a workload with its own has none."""
        raise NotImplementedError

    @abstractmethod
    def inputs(self, model: str) -> dict[str, Any]:
        """Give `inputs` of the pipeline file."""

    def scores(self, columns: Arrays, model: str) -> list[np.ndarray]:
        """Score rows as the best loop would; one array a result column, in the rows' order."""
        n, names = len(columns[0]), list(self.results.values())
        parts = []
        for start in range(0, n, self.call_rows):
            part = columns if n <= self.call_rows else [c.slice(start, self.call_rows) for c in columns]
            parts.append(session(model).run(names, self.feeds(part, model)))
        return [np.concatenate(outputs)[:, 0] for outputs in zip(*parts, strict=True)]

    def tensors(self) -> tuple[list[list[str]], list[list[int]] | None]:
        """Give the columns of each tensor that `predict_batch_udf` builds (several: an array), and their shapes."""
        return [[name] for name in self.columns], None

    def scores_of_tensors(self, tensors: Sequence[np.ndarray], model: str) -> list[np.ndarray]:
        """Score what `predict_batch_udf` built."""
        return self.scores([pa.array(t) for t in tensors], model)

    def write(self, folder: Path, rows: int) -> Path:
        """Write the input by pyarrow, as snappy Parquet, unless it is there."""
        import pyarrow.parquet as pq

        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        bounds = [rows * i // self.files for i in range(self.files + 1)]
        for part, (first, last) in enumerate(pairwise(bounds)):
            rng = np.random.default_rng([SEED, rows, part])
            writer = None
            for start in range(first, last, self.group_rows):
                n = min(self.group_rows, last - start)
                table = pa.table({"id": np.arange(start, start + n), **self.table(rng, n)})
                writer = writer or pq.ParquetWriter(folder / f"part-{part:05}.parquet", table.schema)
                writer.write_table(table, row_group_size=n)
            if writer is not None:
                writer.close()
        return folder


@cache
def session(model: str) -> Any:
    """One ONNX Runtime session a process, with the options that sparkscore uses on a CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def write_model(path: Path, layers: Sequence[int] = LAYERS) -> Path:
    """Write an MLP: x (n, width) -> p (n, 1), a probability."""
    rng = np.random.default_rng(SEED)
    nodes, weights, name = [], [], "x"
    for i, (rows, cols) in enumerate(pairwise(layers)):
        w = rng.normal(0, rows**-0.5, (rows, cols)).astype(np.float32)
        weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(np.zeros(cols, np.float32), f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"h{i}"]))
        last = i == len(layers) - 2
        name = "p" if last else f"a{i}"
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"h{i}"], [name]))
    given = {"x": (TensorProto.FLOAT, ["n", layers[0]])}
    return save(path, nodes, weights, given, {"p": (TensorProto.FLOAT, ["n", 1])})


def save(path: Path, nodes: list[Any], weights: list[Any], given: dict[str, Any], gives: dict[str, Any]) -> Path:
    """Write a graph; `given` and `gives` are name -> (element type, shape)."""
    tensors = [[helper.make_tensor_value_info(n, *of) for n, of in side.items()] for side in (given, gives)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "g", tensors[0], tensors[1], weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return path
