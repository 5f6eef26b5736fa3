"""What a fault plays on: a session, rows, a pipeline, and a second reader that compares with a run without faults."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparkscore.errors import SparkscoreError
from sparkscore.run.batch import run_batch
from sparkscore.run.result import Run
from sparkscore.spec.pipeline import load_pipeline
from tests.run.conftest import linear_model, write_rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["NotHere", "Seen", "Stage", "Tally", "plain_score", "pool"]

BEAT_S = 0.5
BAD = 977  # each row whose id is a multiple of it has no value, and is quarantined

Rows = Counter[tuple[Any, str]]  # (key, sha256 of status and outputs) -> how often


class NotHere(Exception):
    """This machine has not what a fault needs."""


@dataclass(frozen=True)
class Tally:
    """Rows against the undisturbed run's."""

    lost: int = 0
    duplicated: int = 0
    wrong: int = 0

    @property
    def is_exact(self) -> bool:
        return not (self.lost or self.duplicated or self.wrong)

    def __str__(self) -> str:
        if self.is_exact:
            return "exact"
        named = {"lost": self.lost, "duplicated": self.duplicated, "wrong": self.wrong}
        return ", ".join(f"{rows:,} {name}" for name, rows in named.items() if rows)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.lost + other.lost, self.duplicated + other.duplicated, self.wrong + other.wrong)


@dataclass(frozen=True)
class Seen:
    """What a fault did: to the protected run, and to the same work without the protection."""

    protected: Tally
    ended: str  # how the protected run ended, in the words of its codes
    unprotected: str
    failures: tuple[str, ...] = ()  # promises that did not hold


@dataclass
class Stage:
    """One fault with one seed: its own folder, its own random numbers, and the group's session."""

    spark: SparkSession
    folder: Path
    seed: int
    rows: int = 20_000
    files: int = 2
    root: str = ""  # where the pipeline finds the folder, when that is not its path
    failures: list[str] = field(default_factory=list)

    @cached_property
    def rng(self) -> random.Random:
        return random.Random(f"{self.folder.name} {self.seed}")

    def __post_init__(self) -> None:
        self.oracles = self.folder.parent

    @property
    def sink(self) -> Path:
        return self.folder / "out"

    def data(self, marks: dict[int, float] | None = None) -> Path:
        """Write the rows, where they are not yet; a mark stands in the place of a row's first value."""
        folder = self.folder / "in"
        if not folder.exists():
            write_rows(folder, self.rows, self.files, bad=lambda i: i % BAD == 0 and i > 0)
            linear_model(self.folder / "linear.onnx")
        for path in sorted(folder.iterdir()) if marks else ():
            table = pq.read_table(path)
            cells = [
                marks.get(i, value) for i, value in zip(table["id"].to_pylist(), table["a"].to_pylist(), strict=True)
            ]
            pq.write_table(table.set_column(1, table.schema.field("a"), pa.array(cells, pa.float32())), path)
        return folder

    def document(self, **keys: Any) -> dict[str, Any]:
        """Give the pipeline's document over the stage's folder."""
        root = self.root or str(self.folder)
        base = {
            "version": 1,
            "name": "chaos",
            "source": {"format": "parquet", "location": f"{root}/in"},
            "model": {"uri": f"{root}/linear.onnx"},
            "inputs": {"x": ["a", "b", "c"]},
            "outputs": {"score": "y[:, 0]"},
            "keys": ["id"],
            "sink": {"format": "delta", "location": f"{root}/out"},
            "ledger": f"{root}/ledger",
        }
        return {**base, **keys}

    def run(self, run_id: str = "r1", *, take_over: bool = False, progress: Any = None, **keys: Any) -> Run:
        """Run the pipeline in the group's session."""
        spec = load_pipeline(self.document(**keys))
        return run_batch(self.spark, spec, run_id, take_over=take_over, progress=progress, heartbeat_s=BEAT_S)

    def ends(self, *, codes: Sequence[str], **keys: Any) -> str:
        """Run the pipeline into a named error; what else it ends with is a promise that did not hold."""
        try:
            self.run(**keys)
        except SparkscoreError as failure:
            self.holds(failure.code in codes, f"ended {failure.code} ({str(failure)[:200]}), not {' or '.join(codes)}")
            return failure.code
        except Exception as failure:  # boundary: an error without a name is a promise that did not hold
            self.failures.append(f"ended with {type(failure).__name__}: {str(failure)[:200]}")
            return type(failure).__name__
        self.failures.append(f"ended well, not {' or '.join(codes)}")
        return "ok"

    def holds(self, promise: bool, otherwise: str) -> None:
        if not promise:
            self.failures.append(otherwise)

    def expected(self, bad: Iterable[int] = ()) -> Rows:
        """Give the rows of an undisturbed run over the unmarked data, of which those of `bad` are quarantined."""
        place = self.oracles / f"undisturbed-{self.rows}-{self.files}"
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            Stage(self.spark, place, 0, self.rows, self.files).undisturbed()
            (place / "done").touch()
        found = delta_rows(place / "out")
        for row_id in bad:
            found = Counter({row: times for row, times in found.items() if row[0] != row_id})
            found[row_id, digest("error", None)] += 1
        return found

    def undisturbed(self) -> None:
        self.data()
        self.run()

    def tally(self, bad: Iterable[int] = (), rows: Rows | None = None) -> Tally:
        """Compare the sink, or `rows`, with the undisturbed run."""
        return compared(self.expected(bad), delta_rows(self.sink) if rows is None else rows)

    def balanced(self, run: Run) -> None:
        """Hold the run's own books against the table."""
        summary = run.summary()
        by_status = Counter(
            status for status in table_of(self.sink)["_ss"].combine_chunks().field("status").to_pylist()
        )
        booked = (summary.ok_rows, summary.quarantined_rows)
        self.holds(booked == (by_status["ok"], by_status["error"]), f"books {booked}, table {dict(by_status)}")
        total = sum(booked) + sum(summary.filtered_rows.values())
        self.holds(summary.planned_rows == total, f"planned {summary.planned_rows}, counted {total}")

    def seen(self, ended: str, unprotected: str, bad: Iterable[int] = ()) -> Seen:
        """Close the fault: what the sink holds now is what the protected run came to."""
        tally = self.tally(bad)
        self.holds(tally.is_exact, f"the sink is not exact: {tally}")
        return Seen(tally, ended, unprotected, tuple(self.failures))

    # -- without protection ----------------------------------------------------------------------------

    def plain(
        self, out: Path, folder: Path | None = None, committer: str = "1", columns: str = "abc", **reader: str
    ) -> Tally | str:
        """Score with plain Spark and append Parquet, and compare."""
        version = "mapreduce.fileoutputcommitter.algorithm.version"
        try:
            frame = self.spark.read.options(**reader).schema("id bigint, a float, b float, c float")
            scored = frame.parquet(str(folder or self.folder / "in"))
            scored = scored.mapInArrow(plain_score(str(self.folder / "linear.onnx"), columns), "id bigint, score float")
            scored.write.mode("append").option(version, committer).parquet(str(out))
        except Exception:  # boundary: plain Spark fails in many ways, and all are the answer
            return "the job fails, no row"
        return self.plain_tally(out)

    def plain_within(self, seconds: float, columns: str = "abc") -> str:
        """Score with plain Spark, and stop it when it does not end."""
        with ThreadPoolExecutor(1) as thread:
            ends = thread.submit(self.plain, self.folder / "plain", columns=columns)
            try:
                return str(ends.result(seconds))
            except TimeoutError:
                self.spark.interruptAll()
                return f"does not end in {seconds:.0f} s"

    def plain_tally(self, out: Path) -> Tally:
        """Compare Parquet files that hold ids and scores alone; a bad row has a score there, NaN, and no status."""
        rows: Rows = Counter()
        for path in pool(out):
            table = pq.read_table(path)
            for row_id, score in zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True):
                is_bad = score is None or score != score
                rows[row_id, digest("error" if is_bad else "ok", None if is_bad else score)] += 1
        return compared(self.expected(), rows)


def plain_score(model: str, columns: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The usual few lines: a session, and its answer beside the key."""

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import onnxruntime

        session = onnxruntime.InferenceSession(model)
        for batch in batches:
            x = np.stack([batch[name].to_numpy(zero_copy_only=False) for name in columns], 1).astype(np.float32)
            y = session.run(None, {"x": x})[0][:, 0] if len(x) else np.zeros(0, np.float32)
            yield pa.RecordBatch.from_arrays([batch["id"], pa.array(y, pa.float32())], ["id", "score"])

    return score


def pool(folder: Path) -> list[Path]:
    """The data files that a plain reader of a folder sees."""
    return [
        p
        for p in sorted(folder.rglob("*.parquet"))
        if not any(q.startswith(("_", ".")) for q in p.relative_to(folder).parts)
    ]


def table_of(place: Path) -> pa.Table:
    """Read a Delta table by delta-rs, which shares no code with the writer."""
    from deltalake import DeltaTable

    table: Any = DeltaTable(str(place))
    return table.to_pyarrow_table()


def delta_rows(place: Path) -> Rows:
    """Read a sink's rows as a multiset; empty where there is no table."""
    if not list((place / "_delta_log").glob("*.json")):
        return Counter()
    table = table_of(place)
    statuses = table["_ss"].combine_chunks().field("status").to_pylist()
    cells = zip(table["id"].to_pylist(), statuses, table["score"].to_pylist(), strict=True)
    return Counter((row_id, digest(status, score)) for row_id, status, score in cells)


def digest(status: str, score: float | None) -> str:
    """sha256 of what a row came to; floats by their exact digits."""
    return hashlib.sha256(f"{status} {None if score is None else float(score).hex()}".encode()).hexdigest()


def compared(expected: Rows, found: Rows) -> Tally:
    """Count keys that are missing, keys that are there too often, and rows under a right key that say another thing."""
    keys, seen = Counter(key for key, _ in expected), Counter()
    for (key, _), times in found.items():
        seen[key] += times
    lost = sum(1 for key in keys if not seen[key])
    duplicated = sum(times - keys[key] for key, times in seen.items() if times > keys[key])
    return Tally(lost, duplicated, sum((found - expected).values()) - sum((seen - keys).values()))
