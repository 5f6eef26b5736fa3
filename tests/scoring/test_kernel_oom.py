"""A model call for which the kernel ends its process for want of memory: a real kill, in a real memory group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import kernel

# A row marked -6 asks for 64 GiB at once, one marked -7 touches 512 MiB, piece by piece.
PLANT = """
import onnxruntime, numpy as np

def run(self, names, feeds, options=None):
    marks = set(feeds["x"].ravel().tolist())
    if -6.0 in marks: np.ones(2**33)
    if -7.0 in marks: hoard = [np.ones(2**22) for _ in range(16)]
    return call(self, names, feeds, options)

call = onnxruntime.InferenceSession.run
onnxruntime.InferenceSession.run = run
"""
SCORE = """
import json, sys
import numpy as np, pyarrow as pa
from pathlib import Path
from sparkscore.scoring.scorer import open_scorer
from sparkscore.spec.scoring import ErrorPlan, InputPlan, ScoringPlan, Tensor
from tests.scoring import graphs
from tests.scoring.test_scorer import Y
marks, ballast_mib, folder = json.loads(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
ballast = np.ones(ballast_mib * 2**17)
ref = graphs.write(folder / "model", graphs.linear())
inputs = (InputPlan("x", "float32", (2,), (Tensor(("x",), shape=(2,)),)),)
plan = ScoringPlan(ref, inputs, Y, ("id",), on_error=ErrorPlan(guard="always"))
n = 12
x = [[marks.get(str(i), float(i)), 0.5] for i in range(n)]
batch = pa.RecordBatch.from_pydict({"id": pa.array(range(n), pa.int64()), "x": pa.array(x, pa.list_(pa.float32()))})
scorer = open_scorer(plan)
table = pa.Table.from_batches(list(scorer.score([batch])))
found = {i: [e["error_code"], e["error_class"], e["error_type"]] for i, e in enumerate(table["err"].to_pylist()) if e}
print(json.dumps([found, scorer.counts.guard_deaths]))
"""
GROUP_MIB = 700


def scored(folder: Path, marks: dict[int, float], ballast_mib: int) -> tuple[dict[str, list[str]], int]:
    """Score 12 rows, guarded, in a group of 700 MiB of which this process holds some; give errors and deaths."""
    (folder / "sitecustomize.py").write_text(PLANT)
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path.cwd()}"}
    with ExitStack() as stack:
        group = kernel.memory_group("sparkscore-oom", GROUP_MIB * 2**20, stack)
        if group is None:
            pytest.skip(f"no memory group can be made on this machine: {kernel.no_memory_group}")
        command = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group), sys.executable, "-c", SCORE]
        command += [json.dumps(marks), str(ballast_mib), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_a_row_for_which_the_kernel_kills_is_p5_and_one_whose_memory_is_refused_p7(tmp_path: Path) -> None:
    found, deaths = scored(tmp_path, {3: -7.0, 8: -6.0}, 200)
    assert found == {"3": ["SPS-ROW-CRASH", "P5", "signal 9"], "8": ["SPS-ROW-OOM", "P7", "MemoryError"]}
    assert deaths > 1
