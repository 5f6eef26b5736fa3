"""A pipeline's places become the least IAM policy that its run needs on S3, for the driver or for executors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sparkscore.run.models import encoder_files
from sparkscore.runtime.files import is_s3
from sparkscore.spec.fields import located

__all__ = ["Role", "places_elsewhere", "policy"]

Role = Literal["driver", "executor"]
_Statement = dict[str, Any]

# S3 answers for an object that is not there with 404 only to who may list its bucket, else with 403. A condition on
# `s3:prefix` never holds for such a request, which has no prefix: so buckets are listed without a condition.
_READ = ("s3:GetObject", "s3:ListBucket")
_PUT = ("s3:AbortMultipartUpload", "s3:PutObject")
_WRITE = (*_PUT, *_READ)
_GLOB = re.compile(r"[*?{\[\\]")  # Hadoop's paths
_WILD = re.compile(r"[*?$]")  # IAM's


def policy(pipeline: Any, role: Role) -> dict[str, Any]:
    """Give the policy of a role, from the pipeline alone: neither Spark nor a store is asked.

    Parameters
    ----------
    pipeline : sparkscore.spec.pipeline.Pipeline
    role : {"driver", "executor"}
        The driver's covers a run whose tasks are in the driver's own process, too.

    Returns
    -------
    dict
        A policy document of version 2012-10-17. What is not on S3 has no statement, and the list may be empty.
    """
    of_driver = role == "driver"
    inputs = _on_s3(*(pipeline.source.location or ()))
    found = [
        _statement("ReadInput", _READ, inputs, [arn for place in inputs for arn in _source(place)]),
        _model(pipeline, of_driver),
        _folders("WriteSink", _WRITE, pipeline.sink.location),
        _folders("WriteQuarantine", _WRITE, pipeline.quarantine.location),
        *(_ledger_of_driver(pipeline) if of_driver else _ledger_of_executors(pipeline)),
        _statement("DeleteTemporary", ("s3:DeleteObject",), (), _deletable(pipeline, of_driver)),
    ]
    return {"Version": "2012-10-17", "Statement": [one for one in found if one is not None]}


def places_elsewhere(pipeline: Any) -> list[str]:
    """Name the places that the pipeline does not tell; one that is on S3 needs a statement of its own."""
    tables = {"source": pipeline.source.table, "sink": pipeline.sink.table}
    found = [f"{key}.table {table}: the catalog knows its place" for key, table in tables.items() if table]
    if pipeline.model.uri.startswith(("models:", "runs:")):
        found.append(f"model.uri {pipeline.model.uri}: the registry knows its place, and the driver alone reads it")
    return found


def _source(place: str) -> list[str]:
    """Name what is read of a source; of a pattern, the folder that is listed and what begins as the pattern does."""
    glob = _GLOB.search(place)
    if glob is None:
        return [_arn(place), _arn(place, "*")]
    folder, _, name = place[: glob.start()].rpartition("/")
    return [_arn(folder), _arn(folder, f"{_literal(name)}*")]


def _model(pipeline: Any, of_driver: bool) -> _Statement | None:
    """Let a file be read, and what is named after it, as its external data mostly is; or a folder; and single files."""
    models = _on_s3(located(pipeline.model.uri, pipeline.folder))
    golden = [located(pipeline.model.golden, pipeline.folder)] if of_driver and pipeline.model.golden else []
    singles = _on_s3(*golden, *encoder_files(pipeline).values())
    arns = [arn for m in models for arn in ([f"{_arn(m)}*"] if m.endswith(".onnx") else [_arn(m), _arn(m, "*")])]
    return _statement("ReadModel", _READ, [*models, *singles], [*arns, *map(_arn, singles)])


def _ledger_of_driver(pipeline: Any) -> list[_Statement | None]:
    """Let the driver write all of the ledger, and ask for names that no object has.

    S3A asks for a folder's own key, since it could be a file, and for those of the folders above a new one; Delta looks
    for a log in each folder above a new table. Both go on where what is above is refused (Hadoop 3.5, Delta 4.4,
    measured). It is allowed so that a run has no refused call, and gives nothing away.
    """
    written = _on_s3(pipeline.sink.location, pipeline.quarantine.location, pipeline.ledger)
    names = [arn for place in written for arn in (_arn(place), *_above(place))]
    return [_folders("WriteLedger", _WRITE, pipeline.ledger), _statement("ProbeNames", ("s3:GetObject",), (), names)]


def _above(place: str) -> list[str]:
    parts = place.rstrip("/").split("/")
    bucket, *folders = ["/".join(parts[:depth]) for depth in range(3, max(len(parts), 4))]
    return [*map(_arn, folders), *(_arn(folder, "_delta_log") for folder in (bucket, *folders))]


def _ledger_of_executors(pipeline: Any) -> list[_Statement | None]:
    """Let workers tell of themselves, and Spark's tasks read and write the ledger's files of rows, and a probe's."""
    copies = [] if pipeline.source.has_files else ["inputs"]
    staged = ["_stage"] if _stage(pipeline) == pipeline.ledger else []
    return [
        _folders("WriteLedger", _PUT, pipeline.ledger, "receipts", "evidence"),
        _folders("WriteLedgerRows", _WRITE, pipeline.ledger, "tables", "estimates", *copies, *staged),
    ]


def _deletable(pipeline: Any, of_driver: bool) -> list[str]:
    """Name what may be deleted, which is no row that readers see.

    Delta writes a checksum beside its place and renames it; Spark's committer renames files out of `_temporary`. Copies
    of an input go after 30 days, a probe's rows at its end. A stage is swept once the sink holds its rows; in a sink of
    files they are the sink's.
    """
    sink, ledger, stage = pipeline.sink, pipeline.ledger, _stage(pipeline)
    found: list[tuple[str | None, str]] = []
    if of_driver:
        tables = [pipeline.quarantine.location, *([sink.location] if sink.is_delta else [])]
        found += [(table, "_delta_log/.*.tmp") for table in tables]
        found += [(ledger, "tables/*/_delta_log/.*.tmp"), (ledger, "estimates/*")]
    if sink.is_foreign:
        found.append((sink.location, "_temporary/*"))
    is_swept = of_driver and (sink.is_delta or sink.is_foreign)
    found.append((stage, "_stage/*" if is_swept else "_stage/*/_temporary/*"))
    if not pipeline.source.has_files:
        found.append((ledger, "inputs/*" if of_driver else "inputs/*/_temporary/*"))
    return [_arn(place, below) for place, below in found if place and is_s3(place)]


def _stage(pipeline: Any) -> str | None:
    """Give the place in whose `_stage` a run's units wait, as `run.publishing` has it; None where they do not."""
    sink = pipeline.sink
    if not sink.is_staged:
        return None
    return str(pipeline.ledger if sink.is_foreign or sink.location is None else sink.location)


def _folders(sid: str, actions: Sequence[str], place: str | None, *names: str) -> _Statement | None:
    """Allow actions on all that is below a place, or below folders of it."""
    places = _on_s3(place)
    arns = [_arn(one, f"{name}/*" if name else "*") for one in places for name in names or ("",)]
    return _statement(sid, actions, places if "s3:ListBucket" in actions else (), arns)


def _statement(sid: str, actions: Sequence[str], listed: Iterable[str], arns: Iterable[str]) -> _Statement | None:
    resources = {*arns, *(_arn("/".join(place.split("/")[:3])) for place in listed)}
    if not resources:
        return None
    return {"Sid": sid, "Effect": "Allow", "Action": sorted(actions), "Resource": sorted(resources)}


def _on_s3(*places: str | None) -> list[str]:
    return [place for place in places if place and is_s3(place)]


def _arn(place: str, below: str = "") -> str:
    """Name a bucket or a key as it is written, and what is below it by a pattern."""
    bucket, _, key = place.partition("://")[2].partition("/")
    return "arn:aws:s3:::" + "/".join(part for part in (bucket, _literal(key.strip("/")), below) if part)


def _literal(key: str) -> str:
    return _WILD.sub(r"${\g<0>}", key)
