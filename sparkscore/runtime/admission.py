"""A pinned model's folder becomes an admitted one: limits read from the file, then a first load in a child process."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime import cache
from sparkscore.runtime.loading import versions
from sparkscore.runtime.onnx_file import GraphFacts, read_graph
from sparkscore.runtime.session import open_session
from sparkscore.spec.scoring import ModelRef, SessionPlan

__all__ = ["Admission", "admit"]

logger = logging.getLogger(__name__)

MIN_MEMORY_BYTES = 2 << 30  # Python, numpy and ONNX Runtime 1.32 take 0.15 GiB of it (docs/decisions/0012)
_MODEL_FACTOR = 4  # measured: 3.0 (the bytes, the parsed tensors, the packed weights)
_LIMIT_S = 30  # of CPU and of the clock
_BYTES_PER_S = 50 << 20  # larger models get more time: a load from a slow disk
_RULES = 1  # a higher number admits every model anew
_OLDEST = (1, 27)  # of ONNX Runtime, whose loader was hardened there (microsoft/onnxruntime 28709)
_PROGRAM = "import sys; sys.path[:] = {path!r}; from sparkscore.runtime.admission import _child; _child()"
_READY = "ready\n"
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")  # no credentials, and nothing that Python obeys
# What runs out of memory, and what ONNX Runtime will not even ask for (Tile, Range and others of 1.32).
_MEMORY = re.compile(
    r"bad_alloc|failed to allocate|out of memory|MemoryError|exceeds the supported maximum|size overflowed", re.I
)

# What ONNX Runtime's own wheels run. `ai.onnx.contrib` and the like need a library of custom operators.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")
# In those domains, but they run a compiled engine of another file, or Python.
_REFUSED = ("EPContext", "PythonOp", "PythonOpGrad")


@dataclass(frozen=True)
class Admission:
    """What a first load showed; it is remembered beside the verified copy.

    Attributes
    ----------
    flags : tuple of str
        What is no fault by itself: ``Loop``, ``huge Expand``, ``NaN in weights``, ``onnxruntime 1.26 < 1.27`` …
    warm_up_ok : bool
        Whether an input of zeros was scored; a model may refuse zeros.
    memory_bytes : int
        Peak of resident memory of the process that loaded it.
    """

    flags: tuple[str, ...]
    warm_up_ok: bool
    memory_bytes: int


def admit(ref: ModelRef, folder: Path) -> Admission:
    """Hold a model's file against static limits, then load it and score zeros in a process that may die of it.

    Parameters
    ----------
    ref : ModelRef
        The pinned model.
    folder : Path
        Its verified files.

    Returns
    -------
    Admission
        From the cache when the same bytes were admitted before, by this version of ONNX Runtime.

    Raises
    ------
    ModelError
        `SPS-MODEL-ADMISSION`, or what ONNX Runtime refuses the file for: `SPS-MODEL-FORMAT`, `-EXTERNAL`, `-TYPE`.
    ClusterError
        `SPS-ENV-PACKAGE` when no Python process with ONNX Runtime starts here.
    """
    # The digest counts files, not which of them is the graph.
    version = versions()["onnxruntime"]
    terms = {"main": ref.main, "onnxruntime": version, "rules": _RULES}
    known = cache.note(ref.sha256)
    if known is not None and {k: known.get(k) for k in terms} == terms:
        return Admission(tuple(known["flags"]), known["warm_up_ok"], known["memory_bytes"])
    facts = read_graph(folder / ref.main, ref.uri, weights=True)
    _assert_operators(facts, ref.uri)
    told = _first_load(ref, folder)
    admission = Admission((*facts.flags, *_old(version)), told["warm_up_ok"], told["memory_bytes"])
    cache.write_note(ref.sha256, {**terms, **asdict(admission)})
    logger.info("admitted %s sha256 %.12s, flags: %s", ref.uri, ref.sha256, ", ".join(admission.flags) or "none")
    return admission


def _assert_operators(facts: GraphFacts, uri: str) -> None:
    for domain, name in sorted(facts.operators):
        if name in _REFUSED or (domain not in _DOMAINS and (domain, name) not in facts.functions):
            raise _refused(
                f"operators of {', '.join(d or 'ai.onnx' for d in _DOMAINS[1:])}, without {', '.join(_REFUSED)}",
                f"the operator {name[:100]!r} of domain {domain[:100]!r}",
                "Export the model with standard operators; libraries of custom operators are not loaded.",
                uri,
            )


def _old(version: str) -> tuple[str, ...]:
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if numbers >= _OLDEST:
        return ()
    logger.warning("onnxruntime %s is older than 1.27, whose loader is hardened against hostile models", version)
    return (f"onnxruntime {version} < 1.27",)


def _first_load(ref: ModelRef, folder: Path) -> dict[str, Any]:
    """Run `_child` on the model, and give what it told."""
    size_bytes = sum(f.size_bytes for f in ref.files)
    limit_s = _LIMIT_S + size_bytes // _BYTES_PER_S
    memory_bytes = max(_MODEL_FACTOR * size_bytes, MIN_MEMORY_BYTES)
    limits = {"cpu_s": limit_s, "memory_bytes": memory_bytes}
    request = {"uri": ref.uri, "folder": str(folder.resolve()), "main": ref.main, **limits}
    wanted = f"{ref.uri} to load and to score zeros within {memory_bytes / 2**30:.3g} GiB and {limit_s} s"
    fix = "Do not load this file unless you know who made it; export it again, and try it with onnxruntime alone."
    # Without '', the working folder, where a file may be called numpy.py; a zip of --py-files is a folder, too.
    path = [*(entry for entry in sys.path if Path(entry).is_absolute()), str(Path(__file__).parents[2])]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM.format(path=path)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            cwd="/",
            env={**environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired as cause:
        raise _refused(wanted, "no end", fix, ref.uri) from cause
    if not done.stdout.startswith(_READY):
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected {sys.executable} to start with sparkscore and onnxruntime. Got {_end(done)}.",
            "Mend this Python's packages; a model's first load happens in a process of its own.",
        )
    text = done.stdout.removeprefix(_READY)
    if done.returncode != 0 or not text:
        raise _refused(wanted, f"a process that died: {_end(done)}", fix, ref.uri)
    told: dict[str, Any] = json.loads(text)
    if "refused" in told:
        raise _refused(wanted, told["refused"], fix, ref.uri)
    if "code" in told:
        raise error(told["code"], told["message"], told["fix"], model=ref.uri)
    return told


def _end(done: subprocess.CompletedProcess[str]) -> str:
    """Say how a process ended, and its last words."""
    code = done.returncode
    how = f"exit code {code}"
    if code < 0:
        named = signal.strsignal(-code) or "without a name"
        how = f"signal {-code} ({'out of CPU time' if code == -signal.SIGXCPU else named})"
    last = (done.stderr.strip().splitlines() or [""])[-1][:300]
    return f"{how}: {last}" if last else how


def _refused(expected: str, got: str, fix: str, uri: str) -> SparkscoreError:
    return error("SPS-MODEL-ADMISSION", f"Expected {expected}. Got {got}.", fix, model=uri)


def _child() -> None:
    """Load the model that stdin names, under limits, and write to stdout what happened."""
    request = json.load(sys.stdin)
    versions()  # ONNX Runtime is imported before the limits: what it needs is not the model's
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, request["cpu_s"])
    if sys.platform != "darwin":  # which has the limit, and does not keep it
        _limit(resource.RLIMIT_AS, request["memory_bytes"])
    sys.stdout.write(_READY)
    sys.stdout.flush()
    ref = ModelRef(request["uri"], "", "", "", request["main"], ())
    sys.stdout.write(json.dumps(_tried(ref, Path(request["folder"]))))


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _tried(ref: ModelRef, folder: Path) -> dict[str, Any]:
    """Load with the optimisations of a worker, which compute what is constant, on the CPU."""
    try:
        session = open_session(ref, SessionPlan(), folder)
    except SparkscoreError as cause:
        if _MEMORY.search(cause.message):
            return {"refused": "more memory wanted at the load"}
        return {"code": cause.code, "message": cause.message, "fix": cause.fix}
    failure = session.warm_up_error or ""
    if _MEMORY.search(failure):
        return {"refused": "more memory wanted at the warm-up"}
    if failure.startswith("CallTimeout"):
        return {"refused": "a warm-up without end"}
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"warm_up_ok": session.warm_up_ok, "memory_bytes": peak_bytes}
