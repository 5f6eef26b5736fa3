"""T1: 30 float32 columns and an id, fresh random values, and an MLP 30-64-32-1 with fixed weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLUMNS = [f"f{i:02d}" for i in range(30)]
LAYERS = (30, 64, 32, 1)


def write_model(path: Path, layers: Sequence[int] = LAYERS) -> Path:
    """Write the MLP: x (n, width) -> p (n, 1), a probability."""
    rng = np.random.default_rng(7)
    nodes, weights, name = [], [], "x"
    for i, (rows, cols) in enumerate(pairwise(layers)):
        w = rng.normal(0, rows**-0.5, (rows, cols)).astype(np.float32)
        weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(np.zeros(cols, np.float32), f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"h{i}"]))
        last = i == len(layers) - 2
        name = "p" if last else f"a{i}"
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"h{i}"], [name]))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", layers[0]])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def write_rows(spark: Any, folder: Path, rows: int) -> Path:
    """Write the rows with Spark, as snappy Parquet in two files, unless they are there."""
    from pyspark.sql import functions as F

    if not (folder / "_SUCCESS").exists():
        values = [F.randn(seed=i).cast("float").alias(name) for i, name in enumerate(COLUMNS)]
        spark.range(0, rows, 1, 2).select("id", *values).write.mode("overwrite").parquet(str(folder))
    return folder
