"""What a probe measured of a pipeline on a machine, and what that says of a plan: hours, money, bad rows.

Times are of slots: what a task waits for its bytes, for Spark's JVM and for the sink is in them, as it is in a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

from sparkscore.ledger.plans import Unit
from sparkscore.ledger.store import Store
from sparkscore.run.environment import installed
from sparkscore.run.frames import plan_names
from sparkscore.run.planning import Bound
from sparkscore.run.requests import GETS_PER_S, requests_of
from sparkscore.run.scan import TaskSizes
from sparkscore.run.units import weight_rows
from sparkscore.spark.schemas import arrow_schema

__all__ = ["Calibration", "Forecast", "Piece", "forecast", "key_of", "read_calibration", "write_calibration"]

_ORT = ("onnxruntime", "onnxruntime-gpu")
_DECIDING = {"prepare", "inputs", "outputs", "missing", "keys", "keep"}


@dataclass(frozen=True)
class Piece:
    """A part of the input that the probe scored as a unit.

    Attributes
    ----------
    weight : float
        Its rows, as the plan counts or guesses them.
    rows, ok_rows, bad_rows : int
        That were scored.
    is_whole : bool
        Whether all of its rows were, or its time was up before.
    tasks, busy_tasks : int
        Of its job, and those that had a row.
    task_s, longest_task_s, model_s, wall_s : float
        Seconds: of all tasks together, of the longest, of model calls, and of the unit from its start to its commit.
    output_bytes : int
        That the sink took.
    """

    weight: float
    rows: int
    ok_rows: int
    bad_rows: int
    is_whole: bool
    tasks: int
    busy_tasks: int
    task_s: float
    longest_task_s: float
    model_s: float
    wall_s: float
    output_bytes: int


@dataclass(frozen=True)
class Calibration:
    """A probe's measurements; `fixed_s` is what a run takes beside its units, a cold start included."""

    at: str
    machine: str
    provider: str
    cores: int
    pieces: tuple[Piece, ...]
    fixed_s: float
    cold_start_s: float

    @property
    def overhead_s(self) -> float:
        """Seconds of a unit beside its longest task: planning, commit, records.

        The least of the pieces: the first bears the proof of them all, and a JVM gets quicker for its first hundred
        jobs. What the others took more is a part of `fixed_s`.
        """
        return min(piece.wall_s - piece.longest_task_s for piece in self.pieces)

    @property
    def model_fraction(self) -> float:
        """The part of the tasks' time that was spent in the model."""
        return _ratio(self.pieces, "model_s", "task_s")

    @property
    def output_bytes_per_row(self) -> float:
        """Bytes in the sink for each row scored."""
        return _ratio(self.pieces, "output_bytes", "rows")

    def ns_row(self, *quantiles: float) -> list[float]:
        """Give quantiles of a row's nanoseconds of one slot, of the pieces that had a row."""
        return [1e9 * s for s in _bootstrap(self._with_rows, "task_s", "rows", quantiles)]

    def bad_fraction(self, *quantiles: float) -> list[float]:
        """Give quantiles of the part of the rows that is bad."""
        return _bootstrap(self._with_rows, "bad_rows", "rows", quantiles)

    @property
    def _with_rows(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.rows]

    @property
    def rows_per_weight(self) -> float:
        """Rows that reach the scorer for each that the plan counts: `source.where`, and guesses by bytes."""
        whole = [piece for piece in self.pieces if piece.is_whole]
        return _ratio(whole, "rows", "weight") if whole else 1.0


@dataclass(frozen=True)
class Forecast:
    """What a run of a plan will take. `parts_s` are its seconds by what they go to; the rest are as named."""

    rows: float
    hours: float
    hours_p95: float
    ns_row: float
    ns_row_p95: float
    parts_s: dict[str, float]
    requests: float

    @property
    def limited_by(self) -> str:
        """What most of the time goes to."""
        return max(self.parts_s, key=lambda part: self.parts_s[part])


def forecast(
    units: Sequence[Unit],
    found: Calibration,
    sizes: TaskSizes,
    job: Bound,
) -> Forecast:
    """Predict a run: its units one after another, each as many tasks at once as there are cores.

    Parameters
    ----------
    units : sequence of Unit
    found : Calibration
    sizes : TaskSizes
        How the session cuts units.
    job : Bound
        What is read and where it goes, for the requests to the store.

    Notes
    -----
    The hours of performance.md §13: the larger of what rows and requests take, and what units and the run itself add.
    Its term for bytes is in the time of a row.
    """
    weights = np.array([float(np.sum(weight_rows(unit.files.table))) for unit in units])
    rows = weights * found.rows_per_weight
    busy = sum(p.busy_tasks for p in found.pieces) / sum(p.tasks for p in found.pieces)
    tasks = np.maximum(1.0, np.round(np.array([sizes.tasks_of(unit) for unit in units]) * busy))
    slots = float(np.sum(rows * np.ceil(tasks / sizes.cores) / tasks)) / 1e9  # of one nanosecond a row
    columns, sink = len(set(plan_names(job.scoring))), job.pipeline.sink.place
    requests = sum(requests_of(unit, columns, sink) for unit in units)
    ns_row, ns_row_p95 = found.ns_row(0.5, 0.95)
    overhead_s = len(units) * found.overhead_s + found.fixed_s
    requests_s = requests / GETS_PER_S
    parts = {
        "the model": slots * ns_row * found.model_fraction,
        "the way of rows through Spark into the sink": slots * ns_row * (1 - found.model_fraction),
        "requests to the store": requests_s,
        "commits of units": len(units) * found.overhead_s,
        "start and end": found.fixed_s,
    }
    hours, hours_p95 = ((max(slots * ns, requests_s) + overhead_s) / 3600 for ns in (ns_row, ns_row_p95))
    return Forecast(float(rows.sum()), hours, hours_p95, ns_row, ns_row_p95, parts, requests)


def key_of(job: Bound, scan: str, machine: str) -> str:
    """Name what a calibration is good for: model, device, precision, ONNX Runtime, machine, what is read and written.

    Neither places, filters nor versions of the input are in it: tomorrow's run is predicted by today's probe.
    """
    pipeline, struct = job.pipeline, job.snapshot.struct
    facts = {
        "model": job.model.ref.sha256,
        "device": pipeline.model.device,
        "calls": [pipeline.model.precision, pipeline.model.batch_size, pipeline.on_error.guard],
        "onnxruntime": [v for name, v in sorted(installed().items()) if name in _ORT],
        "machine": machine,
        "columns": [(f.name, str(f.type)) for f in arrow_schema(struct)],
        "read": [job.snapshot.format, job.snapshot.route, scan],
        "pipeline": pipeline.model_dump(mode="json", by_alias=True, include=_DECIDING, exclude_defaults=True),
        "written": [pipeline.sink.format, pipeline.sink.publish, pipeline.sink.provenance],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def read_calibration(store: Store, key: str) -> Calibration | None:
    """Read a calibration from the ledger, None when it has none of that name."""
    found = json.loads(store.get(f"estimates/{key}.json") or b"null")
    return found and Calibration(**{**found, "pieces": tuple(Piece(**piece) for piece in found["pieces"])})


def write_calibration(store: Store, key: str, found: Calibration) -> None:
    """Keep a calibration in the ledger, in place of an older one."""
    store.put(f"estimates/{key}.json", json.dumps(asdict(found), indent=1).encode())


def _ratio(pieces: Sequence[Piece], above: str, below: str) -> float:
    return float(sum(getattr(p, above) for p in pieces) / max(1e-9, sum(getattr(p, below) for p in pieces)))


def _bootstrap(pieces: Sequence[Piece], above: str, below: str, quantiles: Sequence[float]) -> list[float]:
    """Give quantiles of a ratio over all resamples of the pieces: of three there are 27, so none is drawn by chance.

    Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    ratios = [_ratio(sample, above, below) for sample in product(pieces, repeat=len(pieces))]
    return [float(q) for q in np.quantile(ratios, quantiles)]
