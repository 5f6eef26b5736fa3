"""Faults of a scoring process, planted where a native library would have them: in ONNX Runtime's own call.

Imported by every Python of a group's session as `sitecustomize`, and planted by that name alone. What happens hangs on
the rows of the call and on the orders in a file that the kit writes.
"""

import json
import os
import signal
import time
from pathlib import Path

SIGSEGV, SIGKILL, EXIT, HANG, SHORT, RAISE = -1.0, -2.0, -4.0, -5.0, -6.0, -7.0
_ORDERS = Path(os.environ.get("SPARKSCORE_CHAOS_ORDERS", "/nonexistent"))


def _orders():
    try:
        return json.loads(_ORDERS.read_text())
    except (OSError, ValueError):
        return {}


def _limit_memory(room):
    import resource

    if room is None:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    elif resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _plant(runtime):
    call = runtime.InferenceSession.run

    def run(self, names, feeds, options=None):
        marks = {m for m in feeds["x"].ravel().tolist() if m < 0} if "x" in feeds else set()
        orders = _orders()
        if "executor" not in orders or orders["executor"] == os.environ.get("SPARK_EXECUTOR_ID"):
            time.sleep(orders.get("sleep_s", 0))
        if "note" in orders and "x" in feeds:
            with Path(orders["note"]).open("a") as note:  # as an accumulator would count, in every attempt
                note.write(f"{len(feeds['x'])}\n")
        if "room_bytes" in orders or orders.get("lift_limit"):
            _limit_memory(orders.get("room_bytes"))
        if SIGSEGV in marks:
            os.kill(os.getpid(), signal.SIGSEGV)
        if SIGKILL in marks:
            os.kill(os.getpid(), signal.SIGKILL)
        if EXIT in marks:
            os._exit(0)
        if HANG in marks:
            time.sleep(1e6)
        if RAISE in marks:
            raise RuntimeError("a kernel that refuses this row")
        found = call(self, names, feeds, options)
        return [value[:-1] for value in found] if SHORT in marks else found

    runtime.InferenceSession.run = run


if __name__ == "sitecustomize":  # the kit itself imports the marks alone
    try:
        import onnxruntime
    except ImportError:
        pass
    else:
        _plant(onnxruntime)
