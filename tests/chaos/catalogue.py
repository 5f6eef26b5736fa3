"""The faults of `reliability.md` 15 that concern batch runs: what each does, and what stands without its protection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import clusters, drivers, inputs, stores, workers
from tests.chaos.stage import Seen, Stage

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True)
class Fault:
    """A fault, the group whose session it shares, and what is switched off in its unprotected column."""

    id: str
    what: str
    group: str
    without: str
    play: Callable[[Stage], Seen]


_PLAIN = "plain `mapInArrow` and append"

FAULTS = (
    Fault("F1", "a row on which the worker gets SIGKILL", "local", _PLAIN, workers.sigkill),
    Fault("F2", "a row on which the worker gets SIGSEGV", "local", _PLAIN, workers.sigsegv),
    Fault("F3", "a row on which the worker leaves by `_exit(0)`", "local", _PLAIN, workers.silent_exit),
    Fault("F4", "a row on which the model hangs", "local", _PLAIN, workers.hang),
    Fault("F5", "a row that raises in the model", "local", _PLAIN, workers.raises),
    Fault("F6", "a batch that comes back a row short", "local", _PLAIN, workers.short_batch),
    Fault("F7", "an executor killed, no shuffle", "cluster", "counted in the tasks", clusters.executor_killed),
    Fault("F8", "an executor killed under a shuffle", "cluster", "counted in the tasks", clusters.killed_under_shuffle),
    Fault("F9", "both executors killed at once", "cluster", "counted in the tasks", clusters.both_killed),
    Fault("F10", "the driver killed at a crash point", "local", "plain append, again from the start", drivers.killed),
    Fault("F11", "a driver that stood still and wakes", "local", "two drivers append", drivers.zombie),
    Fault("F12", "a speculative twin on a slow machine", "cluster", "counted in the tasks", clusters.speculation),
    Fault("F13", "debris of a dead writer in the sink", "local", "plain Parquet append", inputs.debris),
    Fault("F14", "disk full while a unit is written", "local", "plain append again (committer v2)", inputs.disk_full),
    Fault("F15", "input cut, bit-flipped, deleted in mid-scan", "local", "Spark that ignores it", inputs.damaged),
    Fault("F16", "a missing column, another type, a renamed one", "local", "plain read with a schema", inputs.drift),
    Fault("F17", "a memory limit below a batch's need", "local", _PLAIN, workers.memory_limit),
    Fault("F19", "the model changed between driver and worker", "local", "no digest", workers.model_changed),
    Fault("F20", "an endless loop, a memory bomb", "local", "no admission", workers.hostile_model),
    Fault("F21", "S3: 503 bursts, 403, slow, cut bodies", "s3", "one try a request", stores.faulty_s3),
    Fault("F22", "two drivers race on one run", "local", "both append", drivers.race),
    Fault("F25", "the clock jumps by an hour", "local", "plain append, again from the start", drivers.clock_jump),
    Fault("F26", "the ledger read-only from a unit on", "local", "-", stores.read_only_ledger),
    Fault("F27", "killed in OPTIMIZE and VACUUM of the sink", "local", "-", drivers.killed_in_vacuum),
    Fault("F28", "1 MB, control characters and HTML in a bad row", "local", "-", workers.poison_payload),
)
