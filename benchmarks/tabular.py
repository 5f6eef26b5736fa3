"""Workloads of numbers and categories: T1, T2, T3, tiny files (S1) and a model of 50 MB (C1)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from onnx import TensorProto, helper

from benchmarks.workload import LAYERS, SEED, Arrays, Workload, save, write_model


class Mlp(Workload):
    """30 float32 columns and an MLP 30-64-32-1, in files of pyarrow."""

    name = "T1 pyarrow"
    title = "T1 again, in files that pyarrow wrote"
    sizes = (1_000_000, 10_000_000)
    columns = [f"f{i:02d}" for i in range(30)]
    layers: Sequence[int] = LAYERS
    read_rows = 65_536  # 10 % less CPU than 8,192 (docs/decisions/0033)

    def write_model(self, folder: Path) -> Path:
        return write_model(folder / "mlp.onnx", self.layers)

    def table(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        return {name: rng.standard_normal(rows, np.float32) for name in self.columns}

    def feeds(self, columns: Arrays, model: str) -> dict[str, np.ndarray]:
        batch = pa.RecordBatch.from_arrays(list(columns), names=self.columns)
        return {"x": batch.to_tensor(row_major=True).to_numpy()}

    def inputs(self, model: str) -> dict[str, Any]:
        return {"x": self.columns}

    def tensors(self) -> tuple[list[list[str]], list[list[int]] | None]:
        return [self.columns], [[len(self.columns)]]

    def scores_of_tensors(self, tensors: Sequence[np.ndarray], model: str) -> list[np.ndarray]:
        from benchmarks.workload import session

        return [session(model).run(["p"], {"x": np.ascontiguousarray(tensors[0], np.float32)})[0][:, 0]]


class T1(Mlp):
    """The same, written by Spark."""

    name = "T1"
    title = "30 float32 columns in snappy Parquet written by Spark, MLP 30-64-32-1"

    def write(self, folder: Path, rows: int) -> Path:
        if not (folder / "_SUCCESS").exists():
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # its JVM ends with it
                pool.submit(_write_by_spark, folder, rows, self.columns).result()
        return folder


def _write_by_spark(folder: Path, rows: int, columns: Sequence[str]) -> None:
    from pyspark.sql import functions as F

    from sparkscore.spark.sessions import local_session

    spark = local_session("local[2]")
    values = [F.randn(seed=i).cast("float").alias(name) for i, name in enumerate(columns)]
    spark.range(0, rows, 1, 2).select("id", *values).write.mode("overwrite").parquet(str(folder))
    spark.stop()


class S1(Mlp):
    """Files of 100 rows: what it costs to list, plan and open them."""

    name = "S1"
    title = "tiny files: 100 rows of T1 in each, 10,000 files at the larger size"
    sizes = (100_000, 1_000_000)
    group_rows = 100

    def write(self, folder: Path, rows: int) -> Path:
        self.files = rows // self.group_rows
        return super().write(folder, rows)


class C1(Mlp):
    """A model of 50 MB."""

    name = "C1"
    title = "cold start: from nothing to the first result, MLP 30-3584-3584-1 (50 MB)"
    sizes = (512, 512)
    layers = (30, 3584, 3584, 1)


class T2(Workload):
    """Wide, mixed, with holes, and 500 trees of 63 leaves."""

    name = "T2"
    title = "200 columns (120 float32 with 5 % nulls, 40 int32, 40 strings with 2 % nulls), 500 trees of 63 leaves"
    sizes = (20_000, 80_000)
    floats = [f"f{i:03d}" for i in range(120)]
    integers = [f"i{i:02d}" for i in range(40)]
    strings = [f"s{i:02d}" for i in range(40)]
    columns = [*floats, *integers, *strings]
    words = ["none", *(f"kind-{i}" for i in range(24))]
    group_rows = 10_000
    call_rows = 4096

    def write_model(self, folder: Path) -> Path:
        return write_trees(folder / "trees.onnx", len(self.columns), trees=500, depth=6)

    def table(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        floats = {n: pa.array(rng.standard_normal(rows, np.float32), mask=rng.random(rows) < 0.05) for n in self.floats}
        integers = {n: rng.integers(-3, 4, rows, np.int32) for n in self.integers}
        words = pa.array(self.words[1:])
        strings = {}
        for name in self.strings:
            picks = pa.array(rng.integers(0, len(words), rows), mask=rng.random(rows) < 0.02)
            strings[name] = words.take(picks)
        return {**floats, **integers, **strings}

    def feeds(self, columns: Arrays, model: str) -> dict[str, np.ndarray]:
        a, b = len(self.floats), len(self.floats) + len(self.integers)
        batch = pa.RecordBatch.from_arrays(list(columns), names=self.columns)
        x = np.empty((batch.num_rows, len(self.columns)), np.float32)
        x[:, :a] = batch.select(self.floats).to_tensor(null_to_nan=True, row_major=True).to_numpy()
        x[:, a:b] = batch.select(self.integers).to_tensor(row_major=True).to_numpy()
        for i, column in enumerate(columns[b:], b):
            x[:, i] = pc.fill_null(pc.index_in(column, _set(column.type)), 0).to_numpy()
        return {"x": x}

    def inputs(self, model: str) -> dict[str, Any]:
        category = {"vocabulary": self.words, "null": "fill", "fill": "none"}
        categories = [{"category": name, **category} for name in self.strings]
        return {"x": [{"columns": self.floats, "null": "nan"}, {"columns": self.integers}, *categories]}

    def tensors(self) -> tuple[list[list[str]], list[list[int]] | None]:
        numbers = [*self.floats, *self.integers]
        return [numbers, self.strings], [[len(numbers)], [len(self.strings)]]

    def scores_of_tensors(self, tensors: Sequence[np.ndarray], model: str) -> list[np.ndarray]:
        from benchmarks.workload import session

        numbers, strings = tensors
        x = np.empty((len(numbers), len(self.columns)), np.float32)
        x[:, : numbers.shape[1]] = numbers
        found = pc.index_in(pa.array(strings.ravel()), _set(pa.string()))
        x[:, numbers.shape[1] :] = pc.fill_null(found, 0).to_numpy().reshape(strings.shape)
        return [session(model).run(["p"], {"x": x})[0][:, 0]]


@cache
def _set(kind: pa.DataType) -> pa.Array:
    return pa.array(T2.words).cast(kind)


class T3(Workload):
    """1,024 floats in one column of lists."""

    name = "T3 array"
    title = "a vector of 1,024 floats as array<float>, MLP 1024-256-1"
    sizes = (20_000, 80_000)
    columns = ["v"]
    group_rows = 10_000
    call_rows = 2048
    width = 1024

    def write_model(self, folder: Path) -> Path:
        return write_model(folder / "mlp.onnx", (self.width, 256, 1))

    def table(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        offsets = np.arange(rows + 1, dtype=np.int32) * self.width
        return {"v": pa.ListArray.from_arrays(offsets, rng.standard_normal(rows * self.width, np.float32))}

    def feeds(self, columns: Arrays, model: str) -> dict[str, np.ndarray]:
        return {"x": columns[0].flatten().to_numpy().reshape(-1, self.width)}

    def inputs(self, model: str) -> dict[str, Any]:
        return {"x": "v"}

    def tensors(self) -> tuple[list[list[str]], list[list[int]] | None]:
        return [["v"]], [[self.width]]

    def scores_of_tensors(self, tensors: Sequence[np.ndarray], model: str) -> list[np.ndarray]:
        return Mlp.scores_of_tensors(self, tensors, model)


class T3Binary(T3):
    """The same as little-endian bytes."""

    name = "T3 binary"
    title = "a vector of 1,024 floats as binary, MLP 1024-256-1"

    def table(self, rng: np.random.Generator, rows: int) -> dict[str, Any]:
        offsets = np.arange(rows + 1, dtype=np.int32) * self.width * 4
        data = rng.standard_normal(rows * self.width, np.float32)
        return {"v": pa.BinaryArray.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])}

    def feeds(self, columns: Arrays, model: str) -> dict[str, np.ndarray]:
        array = columns[0]
        kind = np.int64 if pa.types.is_large_binary(array.type) else np.int32
        first = int(np.frombuffer(array.buffers()[1], kind, 1, array.offset * np.dtype(kind).itemsize)[0])
        values = np.frombuffer(array.buffers()[2], np.float32, len(array) * self.width, first)
        return {"x": values.reshape(-1, self.width)}

    def tensors(self) -> tuple[list[list[str]], list[list[int]] | None]:
        return [["v"]], None

    def scores_of_tensors(self, tensors: Sequence[np.ndarray], model: str) -> list[np.ndarray]:
        x = np.frombuffer(b"".join(tensors[0]), np.float32).reshape(-1, self.width)
        return Mlp.scores_of_tensors(self, [x], model)


def write_trees(path: Path, width: int, trees: int, depth: int) -> Path:
    """Write complete trees of 2^depth - 1 inner nodes, less one leaf: random features and thresholds, sum of leaves."""
    rng = np.random.default_rng(SEED)
    inner = 2**depth - 1
    nodes = 2 * inner + 1
    ids = np.arange(nodes)
    is_leaf = ids >= inner
    # The last pair of leaves is cut off, so that a tree has 63 of them and not 64.
    is_leaf[inner - 1] = True
    ids, is_leaf = ids[:-2], is_leaf[:-2]
    leaves = ids[is_leaf]
    n = len(ids)
    attributes = {
        "nodes_treeids": np.repeat(np.arange(trees), n).tolist(),
        "nodes_nodeids": np.tile(ids, trees).tolist(),
        "nodes_featureids": rng.integers(0, width, n * trees).tolist(),
        "nodes_values": rng.normal(0, 1, n * trees).astype(np.float32).tolist(),
        "nodes_modes": np.tile(np.where(is_leaf, "LEAF", "BRANCH_LEQ"), trees).tolist(),
        "nodes_truenodeids": np.tile(np.where(is_leaf, 0, 2 * ids + 1), trees).tolist(),
        "nodes_falsenodeids": np.tile(np.where(is_leaf, 0, 2 * ids + 2), trees).tolist(),
        "nodes_missing_value_tracks_true": [0] * (n * trees),
        "target_treeids": np.repeat(np.arange(trees), len(leaves)).tolist(),
        "target_nodeids": np.tile(leaves, trees).tolist(),
        "target_ids": [0] * (len(leaves) * trees),
        "target_weights": rng.normal(0, 0.05, len(leaves) * trees).astype(np.float32).tolist(),
    }
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["p"], domain="ai.onnx.ml", n_targets=1, **attributes)
    given = {"x": (TensorProto.FLOAT, ["n", width])}
    return save(path, [node], [], given, {"p": (TensorProto.FLOAT, ["n", 1])})
