"""`sparkscore jars`: which jars this version of Spark needs for Delta and for S3, and bringing them here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparkscore.cli.options import AsJson
from sparkscore.cli.printing import as_table, emit

__all__ = ["jars"]


def jars(
    *,
    download: Annotated[bool, typer.Option("--download", help="Fetch what is missing; offline afterwards.")] = False,
    folder: Annotated[Path | None, typer.Option("--dir", metavar="DIR", help="Where to; default: the cache.")] = None,
    s3: Annotated[bool, typer.Option("--s3", help="Those for s3a:// too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the jars, pinned by sha256; with --download, print them as the value of `spark.jars`."""
    from sparkscore.spark import jars as pinned

    if download:
        paths = [str(path) for path in pinned.ensure(folder, s3=s3)]
        emit({"spark.jars": paths}, ",".join(paths), as_json)
        return
    found = [
        {"spark": line, "coordinates": jar.coordinates, "sha256": jar.sha256}
        for line, listed in pinned.PINNED.items()
        for jar in (*listed, *(pinned.PINNED_S3[line] if s3 else ()))
    ]
    emit(found, as_table(found, ("spark", "coordinates")), as_json)
