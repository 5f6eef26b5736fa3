"""The fingerprint of a pipeline: one digest over what decides a row or its address, and nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sparkscore.spec.pipeline import Pipeline

_DECIDING = ("source", "prepare", "model", "inputs", "outputs", "missing", "keys", "keep", "sink", "ledger")


def fingerprint(pipeline: Pipeline) -> str:
    """Digest what decides a row or its address (`pipeline.md` §1).

    Parameters
    ----------
    pipeline : Pipeline
        After variables and overrides.

    Returns
    -------
    str
        sha256 in hex, of canonical JSON. Two ways of writing the same thing (a short form, a default written out,
        keys in another order) have one fingerprint, and a key that a later version adds does not change it.

    Notes
    -----
    `model.providers` and `model.batch_size` may change between the attempts of a run; a batch size of 1 may not,
    because it admits models whose rows depend on their neighbours. No secret can be in it: the file holds none.
    """
    found = pipeline.model_dump(mode="json", by_alias=True, include=set(_DECIDING), exclude_defaults=True)
    for key in ("source", "sink"):
        found[key].pop("credentials", None)  # where a secret is found decides no row
    found["prepare"] = [_in_order(step) for step in found.get("prepare", ())]
    found["model"].pop("providers", None)
    if pipeline.model.batch_size != 1:
        found["model"].pop("batch_size", None)
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _in_order(step: dict[str, Any]) -> dict[str, Any]:
    """Keep the order of the columns of a `with`: a later one may use an earlier one."""
    return {key: list(value.items()) if isinstance(value, dict) else value for key, value in step.items()}
