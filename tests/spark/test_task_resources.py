"""What Spark gives a task decides how its model runs: the cores become threads, the GPU's address is the one it sees.

What a worker has loaded is frozen: Spark's collection of garbage after each task does not go through it. The addresses
are Spark's own, of a cluster that was told of two GPUs; no GPU is needed to hand them out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters import ROOT, cluster_environment
from tests.scoring import graphs

pytestmark = [pytest.mark.spark, pytest.mark.slow]

SCRIPT = """
import json, os, sys
from pathlib import Path
import pyarrow as pa
from sparkscore.spark.carriers import worker_scorer
from sparkscore.spark.sessions import local_session
from sparkscore.spec.scoring import InputPlan, Numbers, OutputPlan, ScoringPlan
from tests.scoring import graphs

conf = {f"spark.{who}.resource.gpu.amount": n for who, n in (("worker", "2"), ("executor", "2"), ("task", "1"))}
conf |= {"spark.worker.resource.gpu.discoveryScript": sys.argv[1], "spark.task.cpus": "2", "spark.ui.enabled": "false"}
spark = local_session("local-cluster[1,4,1024]", conf)
inputs = (InputPlan("x", "float32", (2,), (Numbers(("a", "b")),)),)
plan = ScoringPlan(graphs.pin(Path(sys.argv[2])), inputs, (OutputPlan("y", "y", "float32", 0, index="[:, 0]"),), ())

def look(batches, plan=plan):
    import gc, time
    yield from ()
    for batch in batches:
        scorer = worker_scorer(plan)
        time.sleep(2)  # both GPUs are in use at once
        said = [os.environ.get("CUDA_VISIBLE_DEVICES"), scorer.plan.session.threads, gc.get_freeze_count() > 0]
        yield pa.RecordBatch.from_pydict({"said": [json.dumps(said)]})

found = spark.range(0, 2, 1, 2).mapInArrow(look, "said string").collect()
print("@" + json.dumps([json.loads(row.said) for row in found]))
"""


def test_a_task_sees_its_own_gpu_and_has_as_many_threads_as_cores(tmp_path: Path) -> None:
    discovery = tmp_path / "gpus.sh"
    discovery.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["3", "5"]}'\n""")
    discovery.chmod(0o755)
    graphs.write(tmp_path / "model", graphs.linear())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(discovery), str(tmp_path / "model")],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
        env=cluster_environment(tmp_path / "cache", PYTHONPATH=str(ROOT)),
    )
    assert "@" in done.stdout, done.stderr[-2000:]
    assert sorted(json.loads(done.stdout.split("@")[1])) == [["3", 2, True], ["5", 2, True]]
