"""A pipeline whose parts all lie below one root, and what it wrote as a second reader has it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from sparkscore.runtime import files
from tests.run.conftest import linear_model, write_rows

__all__ = ["bad_rows", "document", "put_up", "scored_rows", "second_reader"]


def document(root: str, **keys: Any) -> dict[str, Any]:
    """Write the pipeline; keyword arguments replace its keys."""
    base = {
        "version": 1,
        "name": "t",
        "source": {"format": "parquet", "location": f"{root}/in"},
        "model": {"uri": f"{root}/linear.onnx"},
        "inputs": {"x": ["a", "b", "c"]},
        "outputs": {"score": "y[:, 0]", "label": {"output": "y", "then": ["argmax", {"labels": f"{root}/labels.txt"}]}},
        "keys": ["id"],
        "sink": {"format": "delta", "location": f"{root}/out"},
        "quarantine": {"location": f"{root}/bad"},
        "ledger": f"{root}/ledger",
    }
    return {**base, **keys}


def put_up(disk: Path, rows: int, units: int, every: int, *roots: str) -> None:
    """Write the input and the model to a disk, one row in `every` bad, and copy them to other roots."""
    write_rows(disk / "in", rows, units, bad=lambda i: i % every == 7)
    linear_model(disk / "linear.onnx")
    (disk / "labels.txt").write_text("only\n")
    for root in roots:
        for file in (*(disk / "in").iterdir(), disk / "linear.onnx", disk / "labels.txt"):
            files.write_bytes(f"{root}/{file.relative_to(disk)}", file.read_bytes())


def scored_rows(table: pa.Table) -> Counter[tuple[object, ...]]:
    """Give the rows of a sink as a multiset of key, status, reason, label, and the score's very bits."""
    ss = table["_ss"].combine_chunks()
    bits = table["score"].combine_chunks().cast(pa.float32()).view(pa.int32())
    columns = (table["id"], ss.field("status"), ss.field("error_code"), table["label"], bits)
    return Counter(zip(*(c.to_pylist() for c in columns), strict=True))


def bad_rows(table: pa.Table) -> list[tuple[str, str]]:
    """Give the rows of a quarantine by key and reason."""
    return sorted((dict(row["keys"])["id"], row["error_code"]) for row in table.to_pylist())


def second_reader(uri: str, tmp_path: Path) -> pa.Table:
    """Read a Delta table with delta-rs, from a copy of its files on a disk."""
    copy = tmp_path / "copies" / uri.replace("/", "_").replace(":", "_")
    for file in files.list_files(uri):
        files.write_bytes(f"{copy}{file.uri.removeprefix(uri)}", files.read_bytes(file.uri))
    return DeltaTable(str(copy)).to_pyarrow_table()
