"""Small plans and batches for the tests of tensors, encoders and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from sparkscore.runtime.encoders import Encoder, Group
from sparkscore.runtime.faults import Faults
from sparkscore.runtime.tensors import Tally
from sparkscore.spec.scoring import InputPlan, ModelRef, Numbers, Part, ScoringPlan

MODEL = ModelRef("file:m", "1", "0" * 64, "m", "model.onnx", ())


def tensor(dtype: str, row_shape: tuple[int | None, ...], *parts: Part, name: str = "x") -> InputPlan:
    return InputPlan(name, dtype, row_shape, parts)


def numbers(dtype: str, columns: str, **missing: Any) -> InputPlan:
    """One input of scalar columns, named as letters."""
    from sparkscore.spec.scoring import Missing

    return tensor(dtype, (len(columns),), Numbers(tuple(columns), Missing(**missing)))


def encoder(*inputs: InputPlan, folder: Path = Path()) -> Encoder:
    return Encoder(ScoringPlan(MODEL, inputs, (), ()), folder)


def batch(**columns: Any) -> pa.RecordBatch:
    arrays = [c if isinstance(c, pa.Array) else pa.array(c) for c in columns.values()]
    return pa.record_batch(arrays, names=list(columns))


def encode(batch: pa.RecordBatch, *inputs: InputPlan, folder: Path = Path()) -> tuple[list[Group], Faults]:
    faults = Faults(batch.num_rows)
    return encoder(*inputs, folder=folder).encode(batch, faults, Tally()), faults


def codes(faults: Faults) -> dict[int, str]:
    """The code of each bad row."""
    return {row: faults.get(row).code for row in range(faults.n) if faults.bad[row]}


def message(faults: Faults, row: int) -> str:
    return faults.get(row).message
