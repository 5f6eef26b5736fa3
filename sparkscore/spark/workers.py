"""What is set right in a Python worker of Spark, once a process: its socket, and what the garbage collector sees."""

from __future__ import annotations

import gc
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["answer_at_once", "settle"]


@cache
def answer_at_once() -> None:
    """Let the socket to the JVM send the short end of an answer at once.

    Else the kernel holds it until the JVM's has acknowledged what came before, which that one puts off for 40 ms: at
    the end of each task (Nagle's algorithm, RFC 896, and the delayed acknowledgement of RFC 1122). Where Spark speaks
    through Unix sockets there is nothing to set.
    """
    if socket.getdefaulttimeout() is not None:
        return  # a look at a socket would set that on it, and the worker could no longer wait for its JVM
    with suppress(OSError):  # no such list on this system
        for one in list(Path("/dev/fd").iterdir()):
            _send_at_once(int(one.name))


@cache
def settle() -> None:
    """Answer at once, and take what is loaded by now out of the sight of the garbage collector.

    Spark's worker collects after each task (pyspark 4.2 `daemon.py`): 50 ms of CPU to go through the modules' objects.
    """
    answer_at_once()
    gc.collect()
    gc.freeze()


def _send_at_once(descriptor: int) -> None:
    with suppress(OSError):  # no socket, or closed by now
        found = socket.socket(fileno=descriptor)
        try:
            if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        finally:
            found.detach()  # it is not ours to close
