"""The program of a guarded model call: a session that reads feeds from one pipe and writes outputs to another."""

from __future__ import annotations

import os
import pickle
import resource
import select
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from sparkscore.errors import SparkscoreError
from sparkscore.runtime.memory import limit_address_space, prefer_to_be_killed
from sparkscore.runtime.providers import CPU
from sparkscore.runtime.session import Session, open_session
from sparkscore.runtime.wire import SharedMemory, pack, receive, send

__all__ = ["main"]


def main(request_fd: int, reply_fd: int, *memory_fds: int) -> None:
    """Load the model that the first message names, then answer calls until the parent closes its pipe."""
    threading.Thread(target=_end_with_parent, args=(request_fd,), daemon=True).start()
    requests, replies = os.fdopen(request_fd, "rb"), os.fdopen(reply_fd, "wb")
    asked, answered = map(SharedMemory, memory_fds) if memory_fds else (None, None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold rows, and take a while to write
    with suppress(OSError):  # no Linux, or a kernel that does not let it be set
        prefer_to_be_killed()
    ref, plan, folder, warm = pickle.load(requests)  # from the process that started this one
    try:
        session = open_session(ref, plan, folder, warm=warm)
    except SparkscoreError as cause:
        send(replies, pack({"sparkscore_error": [cause.code, cause.message, cause.fix, cause.context]}, {}))
        return
    if session.provider == CPU:  # GPU libraries reserve more address space than there is memory
        with suppress(OSError):
            limit_address_space()
    send(replies, pack(_about(session), session.warm_up or {}, answered))
    while True:
        call, feeds = receive(requests, asked)
        send(replies, _answer(session, call, feeds, answered))


def _about(session: Session) -> dict[str, Any]:
    return {
        "provider": session.provider,
        "versions": session.versions,
        "size_bytes": session.size_bytes,
        "has_warm_up": session.warm_up is not None,
        "signature": asdict(session.signature),
    }


def _answer(session: Session, call: dict[str, Any], feeds: dict[str, Any], answered: SharedMemory | None) -> bytes:
    try:
        outputs = session.run(feeds, call["outputs"], call["timeout_s"])
        return pack({}, {str(i): output for i, output in enumerate(outputs)}, answered)
    except Exception as cause:  # boundary: the parent raises it again, for row isolation to judge
        return pack({"error": [type(cause).__name__, str(cause)]}, {})


def _end_with_parent(request_fd: int) -> None:
    """Exit when the parent's end of the pipe is closed, whatever the model does: the kernel closes it at its death."""
    poll = select.poll()
    poll.register(request_fd, 0)  # a hang-up is always told
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
