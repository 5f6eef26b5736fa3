"""Tensors and a small head as one Arrow IPC stream on a pipe, and back: how a model call crosses to another process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["pack", "receive", "send"]

Array = NDArray[Any]
_TEXT = "str"


def pack(head: Mapping[str, Any], tensors: Mapping[str, Any]) -> pa.RecordBatch:
    """Build a message: one row, with a cell of bytes (of strings, for object arrays) for each tensor, uncopied.

    Parameters
    ----------
    head : mapping
        Whatever JSON can hold.
    tensors : mapping of ndarray
        Of any shape; what is no array, such as a map that a graph may give, arrives as None.

    Raises
    ------
    UnicodeEncodeError
        A string that is not Unicode, as ONNX Runtime raises for it.
    """
    tensors = {name: np.asarray(t) if isinstance(t, np.generic) else t for name, t in tensors.items()}
    cells = [_cell(tensor) for tensor in tensors.values()]
    fields = [
        pa.field(name, cell.type, metadata=_metadata(tensor))
        for (name, tensor), cell in zip(tensors.items(), cells, strict=True)
    ]
    return pa.RecordBatch.from_arrays(cells, schema=pa.schema(fields, metadata={"head": json.dumps(head)}))


def send(pipe: BinaryIO, message: pa.RecordBatch) -> None:
    """Write a message and flush it."""
    with pa.ipc.new_stream(pipe, message.schema) as stream:
        stream.write_batch(message)
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a message: its head and its tensors.

    Raises
    ------
    pyarrow.ArrowInvalid, OSError
        The other side is gone.
    """
    stream = pa.ipc.open_stream(pipe)
    message, _ = stream.read_next_batch(), list(stream)  # the list takes the end of the stream off the pipe
    tensors = {field.name: _tensor(field, message.column(i)) for i, field in enumerate(message.schema)}
    return json.loads(message.schema.metadata[b"head"]), tensors


def _cell(tensor: Any) -> pa.Array:
    if not isinstance(tensor, np.ndarray):
        return pa.nulls(1)
    if tensor.dtype.kind in "OU":
        return pa.array([tensor.ravel().tolist()], pa.large_list(pa.large_string()))
    data = pa.py_buffer(np.ascontiguousarray(tensor).view(np.uint8) if tensor.size else b"")
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(np.array([0, data.size], np.int64)), data])


def _metadata(tensor: Any) -> dict[str, str] | None:
    if not isinstance(tensor, np.ndarray):
        return None
    dtype = _TEXT if tensor.dtype.kind in "OU" else tensor.dtype.str
    return {"dtype": dtype, "shape": json.dumps(tensor.shape)}


def _tensor(field: pa.Field, cell: pa.Array) -> Array | None:
    if field.metadata is None:
        return None
    shape, dtype = json.loads(field.metadata[b"shape"]), field.metadata[b"dtype"].decode()
    if dtype == _TEXT:
        return np.array(cell[0].as_py(), dtype=object).reshape(shape)
    return np.ndarray(shape, dtype, buffer=cell[0].as_buffer())
