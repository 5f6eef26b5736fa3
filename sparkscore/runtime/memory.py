"""What memory this process can have at most and has now, and whether the kernel has ended a process for want of it."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
from pathlib import Path

__all__ = [
    "gpu_memory_bytes",
    "limit_address_space",
    "memory_limit_bytes",
    "memory_used_bytes",
    "oom_kills",
    "prefer_to_be_killed",
    "rss_bytes",
]

logger = logging.getLogger(__name__)

_SMI_TIMEOUT_S = 10
_CGROUPS = Path("/sys/fs/cgroup")


def memory_limit_bytes() -> int:
    """Give the smallest of the machine's memory, the limits of the process's groups and that on its address space."""
    limits = [_number(Path("/proc/meminfo"), "MemTotal:") * 1024]
    limits += [_number(group / name) for group in _groups() for name in ("memory.max", "memory.limit_in_bytes")]
    limits += [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
    return min((limit for limit in limits if limit > 0), default=2**62)


def memory_used_bytes() -> int:
    """Give the memory that the process's group has now, all its processes together; 0 where nothing says it."""
    files = (group / name for group in _groups() for name in ("memory.current", "memory.usage_in_bytes"))
    return next((used for file in files if (used := _number(file))), 0)


def gpu_memory_bytes() -> int | None:
    """Give the memory of the first GPU that this process sees, as ``nvidia-smi`` says it; None where it does not."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=True).stdout
        return int(said.strip()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError) as cause:
        logger.warning("no limit on the memory of GPU %s: nvidia-smi gave %s", gpu, type(cause).__name__)
        return None


def rss_bytes() -> int:
    """Give the memory of this process that is resident now; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def limit_address_space() -> None:
    """Let this process grow by all the memory that it can have and no further: a larger request is a `MemoryError`.

    A limit that stands already, as `spark.executor.pyspark.memory` sets one, is never raised.
    """
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used_bytes + memory_limit_bytes()
    if all(limit == resource.RLIM_INFINITY or wanted < limit for limit in (soft, hard)):
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def prefer_to_be_killed() -> None:
    """Ask the kernel to end this process first when memory runs out, and not the Spark worker or the JVM."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def oom_kills() -> int:
    """Give how many processes of this one's group the kernel has ended for want of memory; 0 where it does not say.

    Where no group counts them, those of the whole machine are given.
    """
    files = (group / name for group in _groups() for name in ("memory.events", "memory.oom_control"))
    counting = next((file for file in files if file.exists()), Path("/proc/vmstat"))
    return _number(counting, "oom_kill ")


def _groups() -> list[Path]:
    """The folders of this process's memory group and of those above it, under cgroup v2 and v1.

    A container sees its own group at the root, where its path may lead nowhere: folders need not be there.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        group = root / path.lstrip("/")
        found += [group, *(above for above in group.parents if above.is_relative_to(root))]
    return found


def _number(file: Path, name: str = "") -> int:
    """Read the number after a line's name; 0 where there is no such file, line or number."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    words = next((line.removeprefix(name).split() for line in lines if line.startswith(name)), [])
    return int(words[0]) if words and words[0].isdigit() else 0
