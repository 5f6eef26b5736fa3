"""CPU of a process tree, of processes too that their parents leave, or never wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import os, signal, sys, time
from benchmarks.accounting import Tree, adopt_orphans

def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

{prepare}
tree = Tree(os.getpid())
before = tree.cpu_s()
if os.fork() == 0:
    {child}
    os._exit(0)
time.sleep(1.5)
print(tree.cpu_s() - before)
"""
_DAEMON = "os.setsid(); os.fork() and os._exit(0); burn(0.5); time.sleep(2)"


def _cpu_s(prepare: str, child: str) -> float:
    program = _PROGRAM.format(prepare=prepare, child=child)
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_a_daemon_that_left_its_parent_is_counted() -> None:
    assert _cpu_s("adopt_orphans()", _DAEMON) >= 0.5


@pytest.mark.slow
def test_without_adoption_it_would_be_missed() -> None:
    assert _cpu_s("", _DAEMON) < 0.4


@pytest.mark.slow
def test_a_child_that_nobody_waits_for_is_counted_to_its_last_sample() -> None:
    assert _cpu_s("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "burn(0.6)") >= 0.4
