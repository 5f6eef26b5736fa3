"""What a worker is doing, in 4 KiB that outlive it; and a dead worker's crumb turned into evidence of what killed it.

The worker maps the file and writes into it, and the kernel keeps the pages whatever ends the process. The worker holds
the file's lock while it lives, which no reused pid and no other pid namespace can feign: who gets the lock has found a
dead worker's crumb, and is alone with it.
"""

from __future__ import annotations

import faulthandler
import fcntl
import hashlib
import json
import mmap
import os
import resource
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sparkscore.runtime.memory import memory_limit_bytes, memory_used_bytes, oom_kills

__all__ = ["Crumb", "Evidence", "dead_workers", "death_class", "evidence_of"]

Evidence = dict[str, Any]

_BYTES = 4096
_SLOTS = (2048, 3072)  # written in turn: a write that a death tears apart leaves the one before it whole
_CALL, _PHASE = 4080, 4095  # when the call began, and what is done: written in one step each, between slots' turns
_CALLED_AT = struct.Struct("<d")
_FRAME = struct.Struct("<IH")  # CRC-32 of what follows, and its length
_NUMBERS = struct.Struct("<QdIIIIQQQQQ")
_PHASES = ("load", "read", "pre", "infer", "post", "emit", "ended")
_CODES = {phase: code for code, phase in enumerate(_PHASES)}
_MAX_ADDRESS = 400  # bytes; of a longer one the end, where the row is
_RSS_EVERY_S, _GROUP_EVERY_S = 0.02, 1.0  # the process's memory takes 10 us to read, its group's 250
_FULL_FRACTION = 0.9  # of the memory limit
_MAX_FAULT_TEXT = 4000
_MAKING_S = 60.0  # between a crumb's file and its first words; an older one without words is debris
_FATAL = "Fatal Python error"  # how faulthandler begins
_STUCK = "SPS-ROW-TIMEOUT"
_FOLDER = "sparkscore-crumbs"


@dataclass
class _State:
    """What changes with each batch, in the order in which it is written."""

    seq: int = 0
    written_at: float = 0.0
    batch_seq: int = 0
    batch_rows: int = 0
    target_batch_rows: int = 0
    oom_halvings: int = 0
    rss_bytes: int = 0
    rss_peak_bytes: int = 0
    address_bytes: int = 0
    group_used_bytes: int = 0
    oom_kills: int = 0


class Crumb:
    """The crumb of this process's task.

    Parameters
    ----------
    folder : Path
        A local folder of this executor, writable.
    about : mapping
        What does not change: whatever JSON can hold, at most 1.7 KB.

    Raises
    ------
    OSError
        The file cannot be made.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        started = time.time()
        self._path = folder / _FOLDER / f"{os.getpid()}-{int(started * 1000)}.crumb"
        self._fault_path = _fault_path(self._path)
        own = {"host": socket.gethostname(), "pid": os.getpid(), "started_at": started}
        own["fault_file"] = str(self._fault_path)
        limits = {"memory_limit_bytes": memory_limit_bytes(), "address_limit_bytes": _address_limit_bytes()}
        words = json.dumps({**about, **own, **limits, "oom_kills_at_start": oom_kills()}).encode()
        assert len(words) <= _SLOTS[0] - _FRAME.size, f"a crumb of {len(words)} bytes"
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._path.open("x+b")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.truncate(_BYTES)
        self._map = mmap.mmap(self._file.fileno(), _BYTES)
        self._statm = _opened(Path("/proc/self/statm"))
        self._state, self._texts, self._rss_at, self._group_at = _State(), [b""] * 5, 0.0, 0.0
        self._put(0, words)
        self.mark("load")
        self._faults = _fault_file(self._fault_path)

    def loaded(self, provider: str, versions: Mapping[str, str]) -> None:
        """Write down what the model runs on."""
        libraries = hashlib.sha256(json.dumps(dict(versions), sort_keys=True).encode()).hexdigest()[:12]
        self._say(0, provider, libraries)
        self.mark("read")

    def begin(self, rows: int, ends: tuple[str | None, str | None], target_rows: int, oom_halvings: int) -> None:
        """Write down the batch that is scored next: its rows, and the addresses of its first and its last."""
        state, now = self._state, time.time()
        state.batch_seq, state.batch_rows = state.batch_seq + 1, rows
        state.target_batch_rows, state.oom_halvings = target_rows, oom_halvings
        if now - self._rss_at >= _RSS_EVERY_S:
            self._look_at_memory(now)
        self._say(3, ends[0] or "", ends[1] or "")
        self.mark("pre")

    def call(self) -> None:
        """Write down that the model is called from now on."""
        _CALLED_AT.pack_into(self._map, _CALL, time.time())
        self.mark("infer")

    def mark(self, phase: str) -> None:
        """Write down what is done from now on: load, read, pre, infer, post or emit."""
        self._map[_PHASE] = _CODES[phase]

    def stuck(self) -> None:
        """Leave last words before the process is ended over a call that cannot be: where its threads stand."""
        self._say(2, _STUCK)
        with self._fault_path.open("a") as file:
            faulthandler.dump_traceback(file)

    def evidence(self) -> Evidence | None:
        """Read it while its worker lives."""
        return evidence_of(bytes(self._map), oom_kills())

    def close(self) -> None:
        """Leave nothing: the task ended well, or by an exception, which Spark tells."""
        self.mark("ended")
        if self._faults is not None:
            faulthandler.disable()
            self._faults.close()
        with suppress(OSError):
            _remove(self._path, self._fault_path)
        self._map.close()
        for file in (self._file, self._statm):
            if file is not None:
                file.close()

    def _say(self, at: int, *texts: str) -> None:
        self._texts[at : at + len(texts)] = [text.encode()[-_MAX_ADDRESS:] for text in texts]
        self._write()

    def _write(self) -> None:
        state = self._state
        state.seq, state.written_at = state.seq + 1, time.time()
        self._put(_SLOTS[state.seq & 1], _NUMBERS.pack(*vars(state).values()) + b"\0".join(self._texts))

    def _look_at_memory(self, now: float) -> None:
        state, self._rss_at = self._state, now
        state.rss_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self._statm is not None:
            pages = os.pread(self._statm.fileno(), 128, 0).split()
            state.address_bytes, state.rss_bytes = (int(n) * mmap.PAGESIZE for n in pages[:2])
        if now - self._group_at >= _GROUP_EVERY_S:
            self._group_at = now
            state.group_used_bytes, state.oom_kills = memory_used_bytes(), oom_kills()

    def _put(self, at: int, words: bytes) -> None:
        framed = _FRAME.pack(zlib.crc32(words), len(words)) + words
        self._map[at : at + len(framed)] = framed


def dead_workers(folder: Path, ledger: str) -> Iterator[tuple[str, Evidence]]:
    """Take the crumbs of dead workers that worked for a ledger, of this executor and of others on the same disk.

    Parameters
    ----------
    folder : Path
        A local folder of this executor; Spark calls those of its neighbours by the same name with another end.
    ledger : str
        Crumbs of other ledgers are left to their own workers.

    Yields
    ------
    tuple of str and dict
        A name that no other death has, ``<host>-<pid>-<start in ms>``, and the evidence. When the next one is asked
        for, the crumb is removed; an exception meanwhile leaves it for others.
    """
    for path in sorted(folder.parent.glob(f"{folder.name.partition('-')[0]}*/{_FOLDER}/*.crumb")):
        try:
            with path.open("r+b") as file:
                found = _taken(file, path, ledger)
                if found is not None:
                    yield f"{found['host']}-{path.stem}", found
                    _remove(path, Path(found["fault_file"]))
        except (FileNotFoundError, PermissionError):
            continue  # another task took it; or it is another user's


def _taken(file: BinaryIO, path: Path, ledger: str) -> Evidence | None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None  # its worker lives, or another task reads it now
    status = os.fstat(file.fileno())
    if status.st_nlink == 0 or status.st_uid != os.getuid():
        return None
    found = evidence_of(file.read(_BYTES), oom_kills())
    if found is None or found["phase"] == "ended":
        if found is not None or time.time() - status.st_mtime > _MAKING_S:
            _remove(path)
        return None
    return found if found.get("ledger") == ledger else None


def evidence_of(crumb: bytes, oom_kills_now: int) -> Evidence | None:
    """Read a crumb; None for one whose first words were never whole.

    Parameters
    ----------
    crumb : bytes
        Of the file, also in the middle of a write: of the two states it holds, the newest whole one counts.
    oom_kills_now : int
        As `oom_kills` counts them, after the death.
    """
    about = _whole(crumb, 0)
    if about is None:
        return None
    found: Evidence = json.loads(about)
    bodies = [_whole(crumb, at) for at in _SLOTS]
    states = [(_State(*_NUMBERS.unpack_from(body)), body[_NUMBERS.size :]) for body in bodies if body is not None]
    state, texts = max(states, key=lambda s: s[0].seq, default=(_State(), b"\0\0\0\0"))
    provider, libraries, code, first, last = (t.decode(errors="replace") or None for t in texts.split(b"\0"))
    return {
        **found,
        **asdict(state),
        "phase": _PHASES[crumb[_PHASE]],
        "call_started_at": _CALLED_AT.unpack_from(crumb, _CALL)[0] or None,
        "torn": any(body is None for body in bodies) and state.seq > 1,
        "provider": provider,
        "libraries_sha256": libraries,
        "last_error_code": code,
        "first_pointer": first,
        "last_pointer": last,
        "gpu_uuid": None,
        "gpu_used_bytes": None,
        "gpu_total_bytes": None,
        "oom_kills_now": oom_kills_now,
        "fault_text": _text(Path(found["fault_file"])),
    }


def death_class(evidence: Evidence) -> str:
    """Tell deaths apart: a call that could not be ended (P8), a fault of native code (P4), want of memory (P5), or
    neither: killed from outside, or ended by itself (P6).

    A kill for want of memory leaves no word in the process: the kernel's count has risen since the crumb's last look,
    or the process had 90 % of what it may have, in memory, or in addresses where those are limited: a process that
    reaches RLIMIT_AS has less than that in memory.
    """
    if evidence["last_error_code"] == _STUCK:
        return "P8"
    if _FATAL in (evidence["fault_text"] or ""):
        return "P4"
    killed = evidence["oom_kills_now"] > max(evidence["oom_kills"], evidence["oom_kills_at_start"])
    used = [(max(evidence["rss_bytes"], evidence["rss_peak_bytes"]), evidence["memory_limit_bytes"])]
    used += [(evidence["address_bytes"], evidence["address_limit_bytes"] or 2**63)]
    return "P5" if killed or any(had >= _FULL_FRACTION * limit for had, limit in used) else "P6"


def _address_limit_bytes() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _whole(crumb: bytes, at: int) -> bytes | None:
    checksum, length = _FRAME.unpack_from(crumb, at) if len(crumb) == _BYTES else (0, 0)
    words = crumb[at + _FRAME.size : at + _FRAME.size + length]
    return words if length and zlib.crc32(words) == checksum else None


def _fault_path(crumb: Path) -> Path:
    """Beside the crumb; or beside Spark's own file, where its faulthandler is on: a link does not cross disks."""
    folder = os.environ.get("PYTHON_FAULTHANDLER_DIR") if faulthandler.is_enabled() else None
    return (Path(folder) if folder else crumb.parent) / f"{crumb.stem}.fault"


def _fault_file(path: Path) -> Any:
    """Let faulthandler write into a file. Spark's own, where it is on, gets a second name, which outlives Spark's."""
    if not faulthandler.is_enabled():
        file = path.open("w")
        faulthandler.enable(file)
        return file
    with suppress(OSError):  # enabled by somebody else: then the text is on stderr alone
        os.link(path.parent / str(os.getpid()), path)
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")[:_MAX_FAULT_TEXT] or None
    except OSError:
        return None


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb", buffering=0)
    except OSError:
        return None


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
