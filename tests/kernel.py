"""A memory group of the kernel, for processes that are to run out of memory for real."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path

__all__ = ["memory_group", "no_memory_group"]

_ROOT = Path("/sys/fs/cgroup")
no_memory_group = ""  # why the last one could not be made


def memory_group(name: str, limit_bytes: int, stack: ExitStack) -> Path | None:
    """Make a group inside this process's own, until the stack ends; a process joins by its pid in `cgroup.procs`.

    None where the machine does not allow it: without the right to write there, or under cgroup v2 where the own group
    has processes and hands its memory controller to no group below. `no_memory_group` says why.
    """
    global no_memory_group
    try:
        group = _own() / f"{name}-{os.getpid()}"
        group.mkdir()
        stack.callback(_remove, group)
        limit = "memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes"
        (group / limit).write_text(str(limit_bytes))
    except OSError as cause:
        no_memory_group = f"{type(cause).__name__}: {cause}"
        return None
    with suppress(OSError):  # no swap, or no accounting of it
        (group / "memory.swap.max").write_text("0")
    return group


def _remove(group: Path) -> None:
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:  # until the kernel has let go of the last process
        with suppress(OSError):
            group.rmdir()


def _own() -> Path:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controllers: path.lstrip("/") for _, controllers, path in lines}
    return _ROOT / "memory" / paths["memory"] if "memory" in paths else _ROOT / paths.get("", "")
