"""Spark schemas as Arrow schemas and as the fields that column references resolve against, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from sparkscore.errors import error
from sparkscore.scoring.projection import projected_schema
from sparkscore.spec.columns import Field, resolve
from sparkscore.tables import Column, arrow_struct

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = [
    "arrow_schema",
    "ddl_type",
    "fields",
    "flat_schema",
    "paths",
    "project",
    "quoted",
    "selected",
    "spark_schema",
    "struct_of",
    "table_frame",
]


def arrow_schema(schema: StructType) -> pa.Schema:
    """Give the Arrow schema of the batches that Spark hands to a worker for a frame of `schema`.

    Instants are noted as UTC; the batches carry the session's time zone, which changes no value.
    """
    from pyspark.sql.pandas.types import to_arrow_schema

    # Spark 4 asks for a time zone, Spark 3.5 does not know the argument.
    zoned = "timezone" in signature(to_arrow_schema).parameters
    return to_arrow_schema(schema, timezone="UTC") if zoned else to_arrow_schema(schema)


def spark_schema(schema: pa.Schema) -> StructType:
    """Give the Spark schema to declare for batches of an Arrow schema."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(schema)


def ddl_type(kind: Any) -> str:
    """Write a Spark type in DDL, its fields' names quoted, which Spark's own text of it leaves as they are."""
    if hasattr(kind, "fields"):
        return f"struct<{', '.join(f'{quoted(f.name)}: {ddl_type(f.dataType)}' for f in kind)}>"
    if hasattr(kind, "elementType"):
        return f"array<{ddl_type(kind.elementType)}>"
    if hasattr(kind, "keyType"):
        return f"map<{ddl_type(kind.keyType)}, {ddl_type(kind.valueType)}>"
    return str(kind.simpleString())


def struct_of(ddl: str) -> StructType:
    """Read a schema written as Spark DDL.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` when Spark cannot parse it.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql.types import StructType

    try:
        return cast(StructType, StructType.fromDDL(ddl))
    except PySparkException as cause:
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected a schema in Spark DDL, such as 'id bigint, amount double'. Got {ddl!r}.",
            "Mend the schema.",
        ) from cause


def table_frame(spark: SparkSession, columns: tuple[Column, ...], rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Give rows of one of `sparkscore.tables` as a frame. They cross as Arrow, which starts no Python worker."""
    schema = pa.schema(list(arrow_struct(columns)))
    return spark.createDataFrame(pa.Table.from_pylist(list(rows), schema=schema))


def fields(schema: StructType | pa.Schema) -> tuple[Field, ...]:
    """Give the names of a schema, structs with their children, for `sparkscore.spec.columns.resolve`."""
    return tuple(_field(f) for f in schema)


def selected(path: tuple[str, ...], name: str | None = None) -> str:
    """Write, for `selectExpr`, a column or a field of a struct by its resolved path, and the name it gets.

    SQL text, because each `Column` object costs a driver some twenty calls of the JVM.
    """
    return f"{'.'.join(quoted(part) for part in path)} AS {quoted(path[-1] if name is None else name)}"


def quoted(name: str) -> str:
    """Quote a name for Spark SQL."""
    return "`" + name.replace("`", "``") + "`"


def project(frame: DataFrame, references: Iterable[str], helpers: Iterable[str]) -> DataFrame:
    """Select the referenced columns, each under its reference text, and the helper columns that the frame has.

    Nothing else crosses to Python: `mapInArrow` is never column-pruned.
    """
    chosen = [selected(path, name) for name, path in paths(frame.schema, references).items()]
    present = set(frame.columns)
    return frame.selectExpr(*chosen, *(h for h in helpers if h in present))


def flat_schema(schema: StructType, references: Iterable[str]) -> pa.Schema:
    """Give the Arrow schema of `project`'s referenced columns."""
    return projected_schema(arrow_schema(schema), paths(schema, references))


def paths(schema: StructType | pa.Schema, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find what each name of a scoring plan means: the column of exactly that name, else what it resolves to.

    A plan names a column by its own name and a field of a struct by its reference, so `a.b` is the column when there
    is one, and no name is taken for SQL.
    """
    available = fields(schema)
    columns = {f.name for f in available}
    return {n: (n,) if n in columns else resolve(n, available) for n in dict.fromkeys(names)}


def _field(field: Any) -> Field:
    """Take a field of a Spark or an Arrow schema; both iterate over a struct's own fields."""
    kind = field.type if isinstance(field, pa.Field) else field.dataType
    nested = pa.types.is_struct(kind) if isinstance(kind, pa.DataType) else hasattr(kind, "fields")
    return Field(field.name, tuple(_field(f) for f in kind) if nested else ())
