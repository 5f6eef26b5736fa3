"""One of two drivers that write the same tables at the same time; what it did is one line of JSON on stdout.

``python -m tests.e2e.two_writers <0 or 1> <folder of the barriers> <pipeline file>…``
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from sparkscore.ledger.events import read_events
from sparkscore.ledger.store import open_store
from sparkscore.run.leasing import lease_of
from sparkscore.run.pipeline import Pipeline
from sparkscore.runtime import files
from sparkscore.spark.sessions import local_session

COMMITS = 6


def main(me: str, barriers: Path, documents: list[str]) -> None:
    pipelines = [Pipeline.load(Path(document)) for document in documents]
    places = [place for pipeline in pipelines for place in pipeline.spec.places]
    spark = local_session("local[1,4]", places=places)
    told: dict[str, Any] = {"lost": {}}
    for pipeline in pipelines:
        root = pipeline.spec.ledger.removesuffix("/ledger")
        _meet(barriers, f"run {root}", me)
        pipeline.run(spark, f"r{me}")
        events = [e["event"] for e in read_events(open_store(pipeline.spec.ledger), f"r{me}")]
        told["lost"][root] = events.count("commit_lost")
        if root.startswith("s3a:"):
            _append(spark, f"{root}/leased", lease_of(spark, f"{root}/leased"), barriers, me)
            told["commits"] = _append(spark, f"{root}/unprotected", contextlib.nullcontext, barriers, me)
    sys.stdout.write(json.dumps(told) + "\n")
    spark.stop()


def _append(spark: Any, table: str, held: Any, barriers: Path, me: str) -> int:
    """Append rows one by one, each at the same moment as the other driver, until a commit is lost; give their number.

    Which one it is cannot be seen here: both were told that they had committed.
    """
    if me == "0":
        spark.createDataFrame([], "name string").write.format("delta").save(table)
    for number in range(COMMITS if held is not contextlib.nullcontext else 5 * COMMITS):
        row = spark.createDataFrame([(f"{me}/{number}",)], "name string")
        _meet(barriers, f"{table} {number}", me)
        with held():
            row.write.format("delta").mode("append").save(table)
        _meet(barriers, f"{table} {number} done", me)
        entries = [f for f in files.list_files(f"{table}/_delta_log", recursive=False) if f.uri.endswith(".json")]
        if len(entries) < 1 + 2 * (number + 1):
            break
    return 2 * (number + 1)


def _meet(barriers: Path, name: str, me: str) -> None:
    folder = barriers / name.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / me).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.001)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
