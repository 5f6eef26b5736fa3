"""A session whose calls happen in a child process, so that a row on which the model dies takes only the child along."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sparkscore.errors import error
from sparkscore.runtime.loading import Signature, TensorInfo
from sparkscore.runtime.memory import memory_limit_bytes, oom_kills
from sparkscore.runtime.providers import lost_context
from sparkscore.runtime.session import Array, CallTimeout, Feeds, Session
from sparkscore.runtime.watchdog import Watch, watchdog
from sparkscore.runtime.wire import SharedMemory, pack, receive, send
from sparkscore.spec.scoring import ModelRef, SessionPlan

__all__ = ["ChildDied", "GuardedSession", "RemoteError", "death"]

logger = logging.getLogger(__name__)

_START_S = 60.0  # beside the load: the interpreter, its imports, and the warm-up call
_LAST_WORDS_S = 5.0  # between the end of a child's pipes and its own
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP)
_MEMORY_TYPES = ("MemoryError", "_ArrayMemoryError")
_FULL_FRACTION = 0.9  # of the memory limit: more than it was used by a child that ran out of memory
Result = TypeVar("Result")


class ChildDied(Exception):  # noqa: N818 - the name says what happened to the call
    """The child ended in a call: `error_type` says how ("signal 11"), `error_class` is P4, P5, P6 or G2."""

    def __init__(self, error_type: str, error_class: str, how: str) -> None:
        super().__init__(f"the process of the model call ended: {how}")
        self.error_type = error_type
        self.error_class = error_class


class RemoteError(Exception):
    """What the model raised in the child: `error_type` is the class name there, the text is the same."""

    def __init__(self, error_type: str, text: str) -> None:
        super().__init__(text)
        self.error_type = error_type


class GuardedSession(Session):
    """A loaded model in a child process; another child takes its place when it dies.

    Parameters
    ----------
    ref, plan, folder
        As in `open_session`.
    grace_s : float
        Seconds after a call's time until the child is killed, because the terminate flag did not end the call.
    max_deaths : int
        Children that may die in calls.

    Attributes
    ----------
    deaths : int
        Children that died in a call, or were killed because it did not return.

    Raises
    ------
    ModelError, ClusterError
        As `open_session`; ``SPS-MODEL-CRASH`` when the child dies before the model is loaded.

    Notes
    -----
    The child is a new interpreter (`sparkscore.runtime.child`), not a fork: CUDA contexts and Arrow's threads do not
    survive one. It ends with this process, whatever it is doing, because it watches the pipe between them.
    """

    def __init__(
        self, ref: ModelRef, plan: SessionPlan, folder: Path, *, grace_s: float = 5.0, max_deaths: int = 64
    ) -> None:
        self._loading = (ref, plan, folder)
        self._grace_s = grace_s
        self._max_deaths = max_deaths
        self._child: _Child | None = None
        self.deaths = 0
        self.sizes: dict[Any, Any] = {}
        self.warm_up_ok = False
        self.warm_up_s: float | None = None
        about, warm_up = self._start()
        self.provider = about["provider"]
        self.versions = about["versions"]
        self.size_bytes = about["size_bytes"]
        self.signature = Signature(**{side: _infos(infos) for side, infos in about["signature"].items()})
        self.warm_up = warm_up if about["has_warm_up"] else None
        self.warm(plan.load_timeout_s)

    def run(
        self,
        feeds: Feeds,
        outputs: Sequence[str],
        timeout_s: float | None = None,
        exit_after_s: float | None = None,
    ) -> list[Array]:
        """Score one batch in the child, as `Session.run` does here; `exit_after_s` is not needed.

        Raises
        ------
        ChildDied
            The child ended in this call.
        CallTimeout
            The call was ended, with the child if it did not end otherwise.
        RemoteError, MemoryError
            What the model raised.
        ModelError
            ``SPS-MODEL-CRASH``: more children than `max_deaths` have died.
        """
        if self._child is None:
            self._start()
        child = self._child
        assert child is not None, "a child that starts is kept"
        message = pack({"outputs": list(outputs), "timeout_s": timeout_s}, feeds, child.requests_memory)
        within_s = None if timeout_s is None else timeout_s + self._grace_s
        try:
            reply, tensors = self._within(within_s, child, lambda: child.ask(message))
            self._assert_context(reply)
        except (ChildDied, CallTimeout):
            self._count_death()
            raise
        if "error" in reply:
            raise _raised(*reply["error"])
        return list(tensors.values())

    def renew(self) -> None:
        """Let the next call load the model in a new child, to give back what this one holds."""
        self.close()

    def close(self) -> None:
        """End the child, if there is one; another call would start the next."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _start(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Start a child and load the model; its warm-up is repeated where the model is known to bear it."""
        ref, plan, folder = self._loading
        try:
            self._child = child = _Child()
        except OSError as cause:
            raise error(
                "SPS-CLUSTER-WORKER",
                f"Expected to start a guarded process. Got {type(cause).__name__}: {cause}.",
                "Give the executors more memory and processes, or set on_error.guard: off.",
            ) from cause
        try:
            reply, tensors = self._within(
                plan.load_timeout_s + _START_S, child, lambda: child.load((ref, plan, folder, self.warm_up_ok))
            )
        except CallTimeout as cause:
            raise error(
                "SPS-CLUSTER-TIMEOUT",
                f"Expected {ref.uri} to load within {plan.load_timeout_s:g} s. Got no session in the guarded process.",
                "Raise on_error.load_timeout_s, or look for a hanging disk or GPU on this host.",
            ) from cause
        except ChildDied as cause:
            raise error(
                "SPS-MODEL-CRASH",
                f"Expected {ref.uri} to load. Got {cause.error_type} while it loaded, with no row in the call.",
                "Look at the end of the worker's stderr; check the model, its libraries and the host's memory.",
            ) from cause
        if "sparkscore_error" in reply:
            self.close()
            code, message, fix, context = reply["sparkscore_error"]
            raise error(code, message, fix, **context)
        return reply, tensors

    def _within(self, seconds: float | None, child: _Child, talk: Callable[[], Result]) -> Result:
        """Talk to the child, which is killed when that takes too long."""
        watch = None if seconds is None else watchdog().start(Watch(child.kill), seconds)
        try:
            return talk()
        except OSError as cause:
            died = child.end(_LAST_WORDS_S)
            self._child = None
            if watch is not None and not watchdog().stop(watch):
                raise CallTimeout(
                    f"the model did not return, and its process was killed after {seconds:g} s"
                ) from cause
            raise died from cause
        except BaseException:  # boundary: half a message may be left in a pipe, so this child cannot be used again
            self.close()
            raise
        finally:
            if watch is not None:
                watchdog().stop(watch)

    def _assert_context(self, reply: Mapping[str, Any]) -> None:
        """End a child that has lost its GPU: every call after this one would fail, whatever its rows."""
        if "error" in reply and lost_context(reply["error"][1]):
            self.close()
            raise ChildDied(reply["error"][0], "G2", "its GPU context was lost")

    def _count_death(self) -> None:
        self.deaths += 1
        logger.warning("worker_died: guarded process number %d of this task", self.deaths)
        if self.deaths > self._max_deaths:
            raise error(
                "SPS-MODEL-CRASH",
                f"Expected at most {self._max_deaths} guarded processes of a task to die. Got one more.",
                "Look at the rows with `sparkscore peek`, mend the model, or raise on_error.max_guard_deaths.",
            )


class _Child:
    """The process, two pipes to it, which are no standard streams (a library may print), and memory for each of them.

    All of it is this child's own: of one that dies in the middle of a write nothing is left for the next.
    """

    def __init__(self) -> None:
        self._oom_kills = oom_kills()
        request_fd, requests_fd = os.pipe()
        replies_fd, reply_fd = os.pipe()
        fds = [request_fd, reply_fd]
        self.requests_memory, self._replies_memory = _memory(), _memory()
        fds += [memory.descriptor for memory in (self.requests_memory, self._replies_memory) if memory is not None]
        command = [sys.executable, "-P", "-X", "faulthandler", "-m", "sparkscore.runtime.child"]
        # Spark adds to sys.path while it runs; a `sitecustomize` of PYTHONPATH comes first, as ever.
        path = [os.environ.get("PYTHONPATH", ""), *(entry or str(Path.cwd()) for entry in sys.path)]
        try:
            self._process = subprocess.Popen(
                [*command, *map(str, fds)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=fds,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            )
        finally:
            os.close(request_fd)
            os.close(reply_fd)
        self._requests, self._replies = os.fdopen(requests_fd, "wb"), os.fdopen(replies_fd, "rb")

    def load(self, loading: tuple[object, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Hand over what to load; give what the child says of the session."""
        pickle.dump(loading, self._requests)
        self._requests.flush()
        return self._reply()

    def ask(self, message: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        """Send a call and give its reply."""
        send(self._requests, message)
        return self._reply()

    def _reply(self) -> tuple[dict[str, Any], dict[str, Any]]:
        head, tensors = receive(self._replies, self._replies_memory)
        # Copied, because the next reply is written over this one.
        return head, {name: tensor if tensor is None else tensor.copy() for name, tensor in tensors.items()}

    def kill(self) -> None:
        """End the process; who waits for its reply finds the pipe closed."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def end(self, grace_s: float = 0.0) -> ChildDied:
        """Wait for the process, kill it if it still runs after `grace_s`, and say how it ended."""
        watch = watchdog().start(Watch(self.kill), grace_s)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = code = os.waitstatus_to_exitcode(status)
        watchdog().stop(watch)
        for pipe in (self._requests, self._replies):
            with suppress(OSError):  # half a message, which nobody will read
                pipe.close()
        for memory in (self.requests_memory, self._replies_memory):
            if memory is not None:
                memory.close()
        full = usage.ru_maxrss * 1024 >= _FULL_FRACTION * memory_limit_bytes()
        full = full or (code == -signal.SIGKILL and oom_kills() > self._oom_kills)  # as the kernel ends a process
        return death(code, full)


def _memory() -> SharedMemory | None:
    return SharedMemory() if hasattr(os, "memfd_create") else None  # Linux; elsewhere all goes through the pipes


def death(code: int, memory_was_full: bool) -> ChildDied:
    """Tell deaths apart: by a fault of native code (P4), for want of memory (P5), or by a kill or an exit (P6)."""
    error_class = "P4" if -code in _CRASHES else "P5" if memory_was_full else "P6"
    if code >= 0:
        return ChildDied(f"exit code {code}", error_class, "it exited by itself")
    return ChildDied(f"signal {-code}", error_class, signal.strsignal(-code) or "an unknown signal")


def _raised(error_type: str, text: str) -> Exception:
    """Build what the child's exception is here; only those that row isolation knows by their class have one."""
    if error_type == CallTimeout.__name__:
        return CallTimeout(text)
    return MemoryError(text) if error_type in _MEMORY_TYPES else RemoteError(error_type, text)


def _infos(infos: Sequence[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(i["name"], i["dtype"], tuple(i["shape"])) for i in infos)
