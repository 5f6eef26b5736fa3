"""A verified model folder turned into a warm session whose provider is proven, cached per process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime import providers as eps
from sparkscore.runtime.loading import DTYPES, inference_session, onnxruntime, signature_of, versions
from sparkscore.runtime.memory import gpu_memory_bytes
from sparkscore.runtime.page_locked import PageLocked, page_locked
from sparkscore.runtime.watchdog import CallTimeout, Watch, watchdog
from sparkscore.spec.scoring import ModelRef, SessionPlan

__all__ = [
    "CallTimeout",
    "Session",
    "clear_sessions",
    "open_session",
]

logger = logging.getLogger(__name__)

CACHE_BYTES_ENV = "SPARKSCORE_SESSION_CACHE_BYTES"
CACHE_BYTES = 4 * 1024**3  # bytes of model files behind the cached sessions; the newest one is always kept
_WARM_UP_TIMEOUT_S = 30.0
_SHRINK_FLOOR_BYTES = 1024 * 1024  # smaller calls are not measured at all
_SHRINK_FACTOR = 4

Array = NDArray[Any]
Feeds = Mapping[str, Array]


class Session:
    """A loaded model.

    Attributes
    ----------
    signature : Signature
        Read from the graph.
    provider : str
        The execution provider that is active, read back from the session.
    versions : dict of str
        Versions of python, numpy and onnxruntime.
    warm_up : dict of ndarray or None
        The input of zeros that was tried once after the load; None where the graph's types allow none.
    warm_up_ok : bool
        Whether the model scored it: then it is known to be good.
    warm_up_error : str or None
        What it raised instead, or what kept the zeros from being made.
    warm_up_s : float or None
        Seconds that the warm-up call took.
    size_bytes : int
        Bytes of the model's files.
    sizes : dict
        Batch sizes that fit in memory, by shape, kept by the scorer for as long as the session lives.
    """

    _memory: PageLocked | None = None

    def __init__(self, make: Callable[[], Any], size_bytes: int = 0) -> None:
        self._make = make
        self._inner = make()
        self.provider: str = self._inner.get_providers()[0]
        if self.provider == eps.CUDA:
            self._memory = page_locked(int(self._inner.get_provider_options()[eps.CUDA]["device_id"]))
        self.signature = signature_of(self._inner)
        self.size_bytes = size_bytes
        self.versions = versions()
        self.sizes: dict[Any, Any] = {}
        self._recent_bytes: deque[int] = deque(maxlen=31)
        self._spare_calls: list[_Call] = []
        self.warm_up_error: str | None = None
        self.warm_up = self._zeros()
        self.warm_up_ok = False
        self.warm_up_s: float | None = None

    def run(
        self,
        feeds: Feeds,
        outputs: Sequence[str],
        timeout_s: float | None = None,
        exit_after_s: float | None = None,
    ) -> list[Array]:
        """Score one batch.

        Parameters
        ----------
        feeds : mapping of ndarray
            Graph input -> array of its dtype, axis 0 the batch; object arrays of str for string tensors.
        outputs : sequence of str
            The graph outputs to compute; the others are not.
        timeout_s : float, optional
            Seconds until the call's terminate flag is set.
        exit_after_s : float, optional
            Seconds after that until the **process** ends with code 70, for Spark to try the task again. A huge single
            kernel does not read the flag. Only a worker process may ask for it.

        Returns
        -------
        list of ndarray
            One array for each of `outputs`.

        Raises
        ------
        CallTimeout
            The call was ended. Whatever else ONNX Runtime raises passes through: isolation tells it apart.
        """
        is_outsized = self._is_outsized(feeds)
        if timeout_s is None and not is_outsized:
            return list(self._inner.run(list(outputs), dict(feeds)))
        try:
            call = self._spare_calls.pop()
        except IndexError:
            call = _Call()
        if is_outsized:
            gpu = "" if self.provider == eps.CPU else ";gpu:0"
            call.options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"cpu:0{gpu}")
        if timeout_s is None:
            return list(self._inner.run(list(outputs), dict(feeds), call.options))
        dog = watchdog()
        dog.start(call, timeout_s, exit_after_s)
        try:
            results = list(self._inner.run(list(outputs), dict(feeds), call.options))
        except BaseException as cause:  # boundary: the terminate flag surfaces as ONNX Runtime's general Fail
            if not dog.stop(call) and isinstance(cause, Exception):
                raise CallTimeout(f"the model did not return within {timeout_s:g} s") from cause
            raise
        if dog.stop(call) and not is_outsized:
            self._spare_calls.append(call)
        return results

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Give an array of any content, to feed the model from: page-locked where CUDA runs it in this process."""
        return np.empty(shape, dtype) if self._memory is None else self._memory(shape, dtype)

    def renew(self) -> None:
        """Load the model again, to give back what an allocator holds after it ran out of memory.

        Notes
        -----
        The arena keeps memory, and a second run at the same size may need more (onnxruntime 14474, 4062).
        """
        self._inner = self._make()

    def warm(self, load_timeout_s: float) -> None:
        """Try the input of zeros once. A failure is not an error: a model may refuse zeros."""
        if self.warm_up is None:
            return
        # TensorRT builds its engines, for minutes, at the first call.
        timeout_s = load_timeout_s if self.provider == eps.TENSORRT else min(load_timeout_s, _WARM_UP_TIMEOUT_S)
        started = time.perf_counter()
        try:
            self.run(self.warm_up, [o.name for o in self.signature.outputs if o.dtype in DTYPES.values()], timeout_s)
        except Exception as cause:  # boundary: whether zeros can be scored is a fact to remember, not a failure
            self.warm_up_error = f"{type(cause).__name__}: {cause}"
            logger.debug("the warm-up input cannot be scored: %s", type(cause).__name__)
        else:
            self.warm_up_ok = True
        self.warm_up_s = time.perf_counter() - started

    def _zeros(self) -> dict[str, Array] | None:
        """Zeros of the graph's shapes, with 1 for free dimensions; '' for strings."""
        inputs = self.signature.inputs
        if any(info.dtype not in DTYPES.values() for info in inputs):
            return None
        try:
            return {i.name: _zero(i.dtype, tuple(1 if d is None else d for d in i.shape)) for i in inputs}
        except (MemoryError, ValueError) as cause:  # a graph may declare any size
            self.warm_up_error = f"MemoryError: {cause}"
            return None

    def _is_outsized(self, feeds: Feeds) -> bool:
        """Whether the arena should shrink after this call: it never does by itself, so one long input would stay."""
        size_bytes = 0
        for array in feeds.values():
            size_bytes += array.nbytes
        if size_bytes < _SHRINK_FLOOR_BYTES:
            return False
        outsized = bool(self._recent_bytes) and size_bytes > _SHRINK_FACTOR * statistics.median(self._recent_bytes)
        self._recent_bytes.append(size_bytes)
        return outsized


class _Call(Watch):
    """A watched call and its options, which the watchdog has ONNX Runtime read between two nodes; kept for the next."""

    def __init__(self) -> None:
        self.options = onnxruntime().RunOptions()
        super().__init__(partial(setattr, self.options, "terminate", True))


class _Cache:
    """Sessions of this process, least recently used first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sessions: OrderedDict[str, Session] = OrderedDict()

    def keep(self, key: str, session: Session, limit_bytes: int) -> None:
        self.sessions[key] = session
        while len(self.sessions) > 1 and sum(s.size_bytes for s in self.sessions.values()) > limit_bytes:
            self.sessions.popitem(last=False)


_cache = _Cache()
_inherited: list[_Cache] = []


def _set_aside_after_fork() -> None:
    """A forked child cannot use its parent's sessions, nor free them: their thread pools did not come along."""
    global _cache
    _inherited.append(_cache)
    _cache = _Cache()


os.register_at_fork(after_in_child=_set_aside_after_fork)


def open_session(ref: ModelRef, plan: SessionPlan, folder: Path, *, warm: bool = True) -> Session:
    """Load the model, or give the session that this process already holds for the same bytes and settings.

    Parameters
    ----------
    ref : ModelRef
        The pinned model; its sha256 is part of the cache's key.
    plan : SessionPlan
        Device, threads, precision, form of the weights, provider options and the time that a load may take.
    folder : Path
        Local folder with the verified files (`sparkscore.runtime.cache.local_folder`).
    warm : bool
        Whether a new session tries the input of zeros once.

    Returns
    -------
    Session
        Shared with every caller in the process; its `run` may be called from several threads.

    Raises
    ------
    ClusterError
        ``SPS-ENV-PACKAGE`` no or two ONNX Runtime wheels; ``SPS-ENV-PROVIDER`` the device is not active after the
        load; ``SPS-CLUSTER-TIMEOUT`` the load took longer than `plan.load_timeout_s`.
    ModelError
        ``SPS-MODEL-FORMAT``, ``SPS-MODEL-EXTERNAL``, ``SPS-MODEL-TYPE``: ONNX Runtime refuses the file.

    Notes
    -----
    The cache holds at most ``SPARKSCORE_SESSION_CACHE_BYTES`` (default 4 GiB) of model files, least recently used out
    first. `clear_sessions` empties it.
    """
    gpu_bytes = gpu_memory_bytes() if plan.gpu_tasks > 1 and plan.device != "cpu" else None
    asked = eps.providers_for(plan, onnxruntime().get_available_providers(), gpu_bytes)
    key = _key(ref, plan, asked)
    with _cache.lock:  # also while loading: two threads that want one model must not load it twice
        held = _cache.sessions.get(key)
        if held is not None:
            _cache.sessions.move_to_end(key)
            return held
        started = time.perf_counter()
        session = _within(plan.load_timeout_s, partial(_load, ref, plan, folder, asked, warm=warm), ref)
        logger.info(
            "session of %s version %s sha256 %.12s on %s, %d thread(s), loaded in %.2f s",
            ref.uri,
            ref.version,
            ref.sha256,
            session.provider,
            plan.threads,
            time.perf_counter() - started,
        )
        _cache.keep(key, session, _limit_bytes())
        return session


def clear_sessions() -> None:
    """Forget every cached session of this process; those still in use live until their users let go."""
    with _cache.lock:
        _cache.sessions.clear()


def _key(ref: ModelRef, plan: SessionPlan, asked: eps.Providers) -> str:
    # `device` and `main` stand beside the list: auto and cuda may ask for the same and end differently.
    parts = [ref.sha256, ref.main, plan.device, asked, plan.precision, plan.weights, plan.threads]
    return hashlib.sha256(json.dumps([*parts, onnxruntime().__version__]).encode()).hexdigest()


def _limit_bytes() -> int:
    text = os.environ.get(CACHE_BYTES_ENV, str(CACHE_BYTES))
    if not text.isdigit():
        raise error("SPS-SPEC-VALUE", f"{CACHE_BYTES_ENV} expects bytes as a whole number. Got {text!r}.", "Mend it.")
    return int(text)


def _within(timeout_s: float, load: Callable[[threading.Event], Session], ref: ModelRef) -> Session:
    """Load on a thread of its own, so that a load which hangs does not hang the caller."""
    future: Future[Session] = Future()
    gone = threading.Event()
    threading.Thread(target=_into, args=(future, load, gone), name="sparkscore-load", daemon=True).start()
    try:
        return future.result(timeout_s)
    except FutureTimeout as cause:
        gone.set()
        raise error(
            "SPS-CLUSTER-TIMEOUT",
            f"Expected {ref.uri} to load within {timeout_s:g} s. Got no session.",
            "Raise on_error.load_timeout_s, or look for a hanging disk or GPU on this host.",
        ) from cause


def _into(future: Future[Session], load: Callable[[threading.Event], Session], gone: threading.Event) -> None:
    try:
        future.set_result(load(gone))
    except BaseException as cause:  # boundary: raised again in the thread that waits
        future.set_exception(cause)


def _load(
    ref: ModelRef, plan: SessionPlan, folder: Path, asked: eps.Providers, gone: threading.Event, *, warm: bool
) -> Session:
    size_bytes = sum(f.size_bytes for f in ref.files if not f.path.startswith("encoders/"))
    make = partial(inference_session, folder, ref.main, plan, name=ref.uri)
    try:
        session = _proven(Session(partial(make, asked), size_bytes=size_bytes), plan.device, asked)
    except SparkscoreError as cause:
        if cause.code != "SPS-ENV-PROVIDER" or plan.device != "auto":
            raise
        logger.warning("fallback: %s runs on the CPU: %s", ref.uri, cause.message)
        session = Session(partial(make, ((eps.CPU, ()),)), size_bytes=size_bytes)
    if warm and not gone.is_set():
        session.warm(plan.load_timeout_s)
    return session


def _proven(session: Session, device: str, asked: eps.Providers) -> Session:
    """Compare the provider that is active with the one asked for: ONNX Runtime drops what it cannot start."""
    if session.provider != asked[0][0]:
        raise eps.provider_missing(device, asked[0][0], session.provider)
    return session


def _zero(dtype: str, shape: tuple[int, ...]) -> Array:
    return np.full(shape, "", dtype=object) if dtype == "str" else np.zeros(shape, dtype=dtype)
