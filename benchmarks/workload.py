"""Workload T1: 30 random float32 columns and an id in snappy Parquet written by Spark, and a small network in ONNX."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 30
HIDDEN = (64, 32)
FEATURES = [f"f{i:02d}" for i in range(WIDTH)]
SEED = 20261122
FILE_ROWS = 500_000  # 62 MB a file: both cores have work at the smaller size


def write_model(path: Path) -> None:
    """Write the network 30-64-32-1 with fixed random weights: x float32 (n, 30) -> p float32 (n, 1)."""
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(SEED)
    nodes, weights, value = [], [], "x"
    sizes = (WIDTH, *HIDDEN, 1)
    for layer, (wide, narrow) in enumerate(zip(sizes, sizes[1:], strict=False)):
        matrix = generator.normal(0, wide**-0.5, (wide, narrow)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        weights.append(numpy_helper.from_array(generator.normal(0, 0.1, narrow).astype(np.float32), f"b{layer}"))
        is_last = layer == len(HIDDEN)
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        nodes.append(helper.make_node("Sigmoid" if is_last else "Relu", [f"z{layer}"], ["p" if is_last else f"a{layer}"]))
        value = f"a{layer}"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])]
    outputs = [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 1])]
    graph = helper.make_graph(nodes, "t1", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def write_rows(spark: Any, folder: Path, rows: int) -> None:
    """Write `rows` rows, each with values of its own: a repeated batch trains the branch predictor."""
    from pyspark.sql import functions as F

    if (folder / "_SUCCESS").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    ids = spark.range(0, rows, 1, max(1, rows // FILE_ROWS))
    values = (F.randn(SEED + i).cast("float").alias(name) for i, name in enumerate(FEATURES))
    ids.select("id", *values).write.option("compression", "snappy").parquet(str(folder))


def parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def into_page_cache(folder: Path) -> None:
    """Read every file once, so that each run finds the page cache warm."""
    for path in parquet_files(folder):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
