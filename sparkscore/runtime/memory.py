"""What memory this process can have at most, and whether the kernel has ended a process for want of it."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["limit_address_space", "memory_limit_bytes", "oom_kills", "prefer_to_be_killed"]

# A container sees its own group at the root, under cgroup v2 and v1.
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit_bytes() -> int:
    """Give the smallest of the machine's memory, the container's and the limit on the address space."""
    limits = [_number(Path("/proc/meminfo"), "MemTotal:") * 1024]
    limits += [_number(Path(path)) for path in _CGROUPS]
    limits += [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
    return min((limit for limit in limits if limit > 0), default=2**62)


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
    """Give how many processes the kernel has ended for want of memory; 0 where it does not say."""
    return _number(Path("/proc/vmstat"), "oom_kill ")


def _number(file: Path, name: str = "") -> int:
    """Read the number after a line's name; 0 where there is no such file, line or number."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    words = next((line.removeprefix(name).split() for line in lines if line.startswith(name)), [])
    return int(words[0]) if words and words[0].isdigit() else 0
