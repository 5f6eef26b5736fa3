"""One thread a process that ends model calls which run too long, at no measurable cost for those that do not."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["STUCK_EXIT_CODE", "CallTimeout", "Watch", "Watchdog", "watchdog"]

STUCK_EXIT_CODE = 70
_TICK_S = 0.1
_IDLE_AFTER_S = 1.0


class CallTimeout(TimeoutError):  # noqa: N818 - the name says what happened to the call
    """A model call that was ended because its time was over; the session stays usable."""


@dataclass(eq=False)
class Watch:
    """One model call: how and when to end it, and when to end the process if that did not help.

    It serves for the next call too, unless the call was ended.
    """

    end: Callable[[], object]
    deadline: float = math.inf
    exit_at: float | None = None
    is_over: bool = False  # the call has returned after it was ended


class Watchdog:
    """Ticks ten times a second while calls are watched and sleeps otherwise, so a call pays for an entry in a set."""

    def __init__(self) -> None:
        # Each step on it is atomic under the GIL: a lock would cost a call 2 us. Who takes a watch out of it, the call
        # that returns or this thread, has decided whether the call was ended.
        self._watches: set[Watch] = set()
        self._ended: list[Watch] = []  # of this thread alone
        self._wake = threading.Event()
        self.last_words: Callable[[], object] | None = None  # called before a stuck process is ended
        threading.Thread(target=self._run, name="sparkscore-watchdog", daemon=True).start()

    def start(self, watch: Watch, timeout_s: float, exit_after_s: float | None = None) -> Watch:
        """Watch a call from now on.

        Parameters
        ----------
        watch : Watch
            Its `end` is called at `timeout_s`, from the watchdog's thread, to end the call.
        timeout_s : float
            Seconds that the call may take.
        exit_after_s : float, optional
            Seconds after which, counted from there, the process ends with code 70 if the call still runs.
        """
        watch.deadline = time.monotonic() + timeout_s
        watch.exit_at = None if exit_after_s is None else watch.deadline + exit_after_s
        self._watches.add(watch)
        if not self._wake.is_set():
            self._wake.set()
        return watch

    def stop(self, watch: Watch) -> bool:
        """Forget a call that has returned; False if it was ended."""
        try:
            self._watches.remove(watch)
        except KeyError:
            watch.is_over = True
            return False
        return True

    def _run(self) -> None:
        last_seen = 0.0
        while True:
            self._wake.wait()
            now = time.monotonic()
            watches = list(self._watches)
            for watch in watches:
                self._look(watch, now)
            self._ended = [watch for watch in self._ended if not watch.is_over]
            for watch in self._ended:
                if watch.exit_at is not None and now >= watch.exit_at:
                    self._end_process()
            last_seen = now if watches or self._ended else last_seen
            if now - last_seen > _IDLE_AFTER_S:
                self._sleep_until_next()
            else:
                time.sleep(min([_TICK_S, *(max(watch.deadline - now, 0.001) for watch in watches)]))

    def _sleep_until_next(self) -> None:
        self._wake.clear()
        if self._watches:  # came between the look and the clear
            self._wake.set()

    def _look(self, watch: Watch, now: float) -> None:
        if now < watch.deadline:  # between this and the removal the GIL does not change hands
            return
        try:
            self._watches.remove(watch)
        except KeyError:  # it has just returned
            return
        self._ended.append(watch)
        watch.end()

    def _end_process(self) -> None:
        sys.stderr.write(
            f"[SPS-ROW-TIMEOUT] a model call did not return after its terminate flag was set: "
            f"process {os.getpid()} ends with code {STUCK_EXIT_CODE}, so that the task is tried again\n"
        )
        sys.stderr.flush()
        try:
            if self.last_words is not None:
                self.last_words()
        finally:
            os._exit(STUCK_EXIT_CODE)


_current: Watchdog | None = None
_making = threading.Lock()


def watchdog() -> Watchdog:
    """Give this process's watchdog, made at its first call: Spark's daemon forks, and threads do not survive that."""
    global _current
    if _current is None:
        with _making:
            _current = _current or Watchdog()
    return _current


def _forget_after_fork() -> None:
    global _current, _making
    _current, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
