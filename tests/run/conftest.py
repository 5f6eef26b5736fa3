"""A small dataset, a small model and a pipeline over them, with real Spark, Delta and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparkscore.run.pipeline import Pipeline

if TYPE_CHECKING:
    from deltalake import DeltaTable

WEIGHTS = np.array([[0.5], [-0.25], [0.125]], dtype=np.float32)


def linear_model(path: Path) -> str:
    """Write y = x @ WEIGHTS, x of shape (n, 3), y of shape (n, 1)."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return str(path)


def write_rows(folder: Path, rows: int, files: int = 4, *, bad: Callable[[int], bool] = lambda i: False) -> str:
    """Write rows (id, a, b, c) over Parquet files; a is null where `bad(id)`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(files):
        ids = [i for i in range(rows) if i * files // rows == part]
        table = pa.table(
            {
                "id": pa.array(ids, pa.int64()),
                "a": pa.array([None if bad(i) else i % 97 for i in ids], pa.float32()),
                "b": pa.array([i % 13 for i in ids], pa.float32()),
                "c": pa.array([i % 7 for i in ids], pa.float32()),
            }
        )
        pq.write_table(table, folder / f"part-{part:03d}.parquet")
    return str(folder)


def expected_score(row_id: int) -> float:
    """The linear model's answer for a row of `write_rows`, by hand."""
    return 0.5 * (row_id % 97) - 0.25 * (row_id % 13) + 0.125 * (row_id % 7)


@pytest.fixture
def document(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Make a pipeline's document over the test's own folders; keyword arguments replace its keys."""

    def make(**keys: Any) -> dict[str, Any]:
        source = {"format": "parquet", "location": str(tmp_path / "in")}
        sink = {"format": "delta", "location": str(tmp_path / "out")}
        model = {"uri": linear_model(tmp_path / "linear.onnx")}
        inputs = {"x": ["a", "b", "c"]}
        base = {"version": 1, "name": "t", "source": source, "model": model, "inputs": inputs, "sink": sink}
        return {**base, "outputs": {"score": "y[:, 0]"}, "keys": ["id"], **keys}

    return make


@pytest.fixture
def pipeline(document: Callable[..., dict[str, Any]]) -> Callable[..., Pipeline]:
    """Make a checked pipeline over the test's own folders."""
    return lambda **keys: Pipeline.load(document(**keys))


def delta_rows(location: str | Path) -> pa.Table:
    """Read a Delta table with delta-rs, which shares no code with the writer."""
    from deltalake import DeltaTable

    table: DeltaTable = DeltaTable(str(location))
    return table.to_pyarrow_table()
