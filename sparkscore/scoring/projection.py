"""The columns that a plan names, picked out of the batches that a caller has: whole columns and fields of structs."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["projected", "projected_schema"]

Paths = Mapping[str, tuple[str, ...]]


def projected(batch: pa.RecordBatch, paths: Paths) -> pa.RecordBatch:
    """Pick columns by their paths; a field of a null struct is null.

    Parameters
    ----------
    batch : RecordBatch
        The caller's, n rows.
    paths : mapping of str to tuple of str
        Name in the result -> the column's name and those of the fields below it.
    """
    arrays = [_at(batch.column(path[0]), path[1:]) for path in paths.values()]
    return pa.RecordBatch.from_arrays(arrays, schema=projected_schema(batch.schema, paths))


def projected_schema(schema: pa.Schema, paths: Paths) -> pa.Schema:
    """Give the schema of `projected` batches."""
    found = []
    for name, (column, *below) in paths.items():
        kind = schema.field(column).type
        for step in below:
            kind = kind.field(step).type
        found.append(pa.field(name, kind))
    return pa.schema(found)


def _at(array: pa.Array, below: tuple[str, ...]) -> pa.Array:
    for name in below:
        array = pc.struct_field(array, name)
    return array
