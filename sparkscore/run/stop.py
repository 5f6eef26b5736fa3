"""Signals as exceptions, so that a run that is told to stop closes its books before it goes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["StopSignal", "signals_as_exceptions"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal(KeyboardInterrupt):
    """A request to stop: Ctrl-C, or the SIGTERM of YARN, Airflow and Kubernetes. The process exits with 128 + n."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message or f"stopped by signal {int(signum)}")
        self.signum = signum


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise `StopSignal` in the main thread at the first SIGTERM or SIGINT within the block; later ones change nothing.

    Enter it again once a classic Spark session exists: making one installs a SIGINT handler of pyspark's, which
    waits for Spark on the very connection that it interrupted. The handlers found are put back at the end. Outside the
    main thread, where Python allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    once = _Once()
    before = {number: signal.signal(number, once) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class _Once:
    """A handler that raises once: a second signal must not tear apart the closing that the first one began."""

    _raised = False

    def __call__(self, signum: int, frame: Any) -> None:
        if not self._raised:
            self._raised = True
            raise StopSignal(signum)
