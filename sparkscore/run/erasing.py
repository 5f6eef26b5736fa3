"""What identifies a person or shows a row, taken out of a quarantine: by the row's keys, or at its date."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparkscore.errors import SparkscoreError, error
from sparkscore.ledger.events import opening_events
from sparkscore.ledger.fold import quarantine_of, run_ids
from sparkscore.ledger.plans import Plan, read_plan
from sparkscore.ledger.store import Store
from sparkscore.run import folding
from sparkscore.run.leasing import lease_of
from sparkscore.spark.delta_log import delta_path, newest_version
from sparkscore.spark.failures import mapped
from sparkscore.spark.schemas import quoted
from sparkscore.spec.sink import FILE_FORMATS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["erase_rows", "expire_rows", "quarantines"]

# The row stays as a number in its run's counts: code, stage, unit and model, and a q_id that names it to nobody.
_EMPTY = {
    "keys": "CAST(map() AS map<string,string>)",
    "source_pointer": "CAST(NULL AS STRING)",
    "payload": "CAST(NULL AS BINARY)",
    "payload_sha256": "CAST(NULL AS STRING)",
    "state": "'expired'",
    "expires_at": "least(expires_at, current_timestamp())",
}
_TRIES = 5


def quarantines(store: Store) -> dict[str, list[Plan]]:
    """Give the quarantines that the runs of a ledger wrote, each with the plans of its runs."""
    found: dict[str, list[Plan]] = {}
    for run_id in run_ids(store):
        plan = read_plan(store, run_id)
        if plan is not None:
            found.setdefault(quarantine_of(opening_events(store, run_id), plan), []).append(plan)
    return found


def erase_rows(spark: SparkSession, store: Store, keys: Mapping[str, str]) -> tuple[dict[str, int], list[str]]:
    """Empty the quarantined rows that have all of these keys, in every quarantine that the ledger knows.

    Payload, its sha256, keys and address go. The files that hold them stay for Delta's time travel until VACUUM.

    Parameters
    ----------
    spark : SparkSession
    store : Store
    keys : mapping of str to str
        Name of the key -> its value as text.

    Returns
    -------
    tuple of (dict of int, list of str)
        How many rows of which quarantine; and the SQL that erases the same rows from the sinks, which are the user's
        own tables: their error rows hold the same payload, and their other rows the scores.

    Raises
    ------
    SpecError
        `SPS-SPEC-VALUE` when no run of the ledger has a key of that name: nothing would be erased, without a word.
    """
    found = quarantines(store)
    plans = [plan for group in found.values() for plan in group]
    known = sorted({name for plan in plans for name in plan.header["keys"]})
    unknown = [name for name in keys if name not in known]
    if unknown or not keys:
        raise error(
            "SPS-SPEC-VALUE",
            f"Expected keys of the ledger's runs, {', '.join(known) or 'which have none'}. Got {', '.join(unknown)}.",
            "Write `--key NAME=VALUE` with the name that `keys` has in the pipeline file.",
        )
    condition = " AND ".join(f"keys[{_text(name)}] = {_text(value)}" for name, value in keys.items())
    erased = {place: _emptied(spark, place, condition) for place in found}
    ours = [plan for plan in plans if set(keys) <= set(plan.header["keys"])]
    where = " AND ".join(f"CAST({quoted(name)} AS STRING) = {_shown(value)}" for name, value in keys.items())
    return erased, list(dict.fromkeys(_for_the_sink(plan, where) for plan in ours))


def expire_rows(spark: SparkSession, store: Store) -> dict[str, int]:
    """Empty the quarantined rows whose `expires_at` is past, in every quarantine that the ledger knows."""
    due = "expires_at < current_timestamp()"
    return {place: _emptied(spark, place, due) for place in quarantines(store)}


def _for_the_sink(plan: Plan, where: str) -> str:
    keys = plan.header.get("sink_keys") or {}
    kind = keys.get("format", "delta")
    if kind not in ("delta", *FILE_FORMATS):
        return f"-- delete from {plan.header['sink']}, by {kind}: {where}"
    if kind != "delta":
        return f"-- write the {kind} files at {plan.header['sink']} again without: {where}"
    return f"DELETE FROM {keys.get('table') or delta_path(plan.header['sink'])} WHERE {where}"


def _emptied(spark: SparkSession, location: str, condition: str) -> int:
    """Empty rows and give their number; rows that a deletion vector only hides are rewritten, for VACUUM to find.

    They are merged by `q_id`: the condition of an UPDATE stands in Delta's log, and with it the key to be forgotten.
    """
    if newest_version(spark, location) is None:
        return 0
    due = spark.read.format("delta").load(location).where(f"state <> 'expired' AND ({condition})")
    empty = due.selectExpr("q_id", *(f"{value} AS {name}" for name, value in _EMPTY.items()))
    rows = folding.merge(spark, location, ("q_id",), empty, update=tuple(_EMPTY), insert=False)
    for left in reversed(range(_TRIES)):
        try:
            with lease_of(spark, location)(), mapped(spark):
                spark.sql(f"REORG TABLE {delta_path(location)} APPLY (PURGE)")
                break
        except SparkscoreError as failure:
            if failure.code != "SPS-CLUSTER-CONFLICT" or not left:
                raise
            time.sleep(random.random())
    return rows


def _text(value: str) -> str:
    """Write a text in SQL by its bytes, so that nothing in it needs a quote."""
    return f"CAST(X'{value.encode().hex()}' AS STRING)"


def _shown(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
