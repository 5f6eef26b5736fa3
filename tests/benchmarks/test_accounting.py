"""CPU of a process tree, of processes too that their parents leave, or that nobody waits for."""

from __future__ import annotations

import subprocess
import sys

# The child burns its CPU, says so, and stays until it is told to go: what was sampled then does not hang on timing.
_PROGRAM = """
import os, signal, time
from benchmarks.accounting import Tree, adopt_orphans

def burn_and_stay(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    os.write(burnt[1], b"x")
    os.read(leave[0], 1)
    os._exit(0)

burnt, leave, gone = os.pipe(), os.pipe(), os.pipe()
{prepare}
tree = Tree(os.getpid())
tree.start()
before = tree.cpu_s()
if os.fork() == 0:
    os.close(gone[0])
    {child}
os.close(gone[1])
os.read(burnt[0], 1)
tree.cpu_s()
os.write(leave[1], b"x")
os.read(gone[0], 1)  # ends when the last process that holds the other end has ended
print(tree.cpu_s() - before)
"""
_DAEMON = "os.setsid(); os.fork() and os._exit(0); burn_and_stay(0.5)"


def _cpu_s(prepare: str, child: str) -> float:
    program = _PROGRAM.format(prepare=prepare, child=child)
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def test_a_daemon_that_left_its_parent_is_counted() -> None:
    assert _cpu_s("adopt_orphans()", _DAEMON) >= 0.48


def test_without_adoption_it_is_missed() -> None:
    assert _cpu_s("", _DAEMON) < 0.4


def test_what_a_child_used_that_nobody_waited_for_stays_counted() -> None:
    assert _cpu_s("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "burn_and_stay(0.5)") >= 0.48
