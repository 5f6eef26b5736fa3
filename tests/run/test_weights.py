"""The form of a run's weights: what `auto` makes of a session's settings, and that a run keeps what it chose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import open_store
from sparkscore.run import weights
from sparkscore.run.planning import restore
from sparkscore.run.weights import executor_of
from tests.run.conftest import linear_model, write_rows

GB, MIB = 1 << 30, 1 << 20
YARN = {"spark.master": "yarn", "spark.executor.cores": "4"}
K8S = {"spark.master": "k8s://https://10.0.0.1", "spark.executor.cores": "4", "spark.executor.memory": "8g"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "memory_limit_bytes", lambda: 16 * GB)
    monkeypatch.setattr("os.cpu_count", lambda: 6)


@pytest.mark.parametrize(
    ("settings", "workers", "python_bytes"),
    [
        ({"spark.master": "local[*]"}, 6, 15 * GB),
        ({"spark.master": "local[2,4]", "spark.driver.memory": "4g", "spark.executor.cores": "9"}, 2, 12 * GB),
        ({"spark.master": "local"}, 1, 15 * GB),
        ({"spark.master": "local[6]", "spark.task.cpus": "4"}, 1, 15 * GB),
        ({"spark.master": "local[2]", "spark.executor.pyspark.memory": "512m"}, 2, 512 * MIB),
        ({"spark.master": "local[2]", "spark.executor.memoryOverhead": "512m"}, 2, 15 * GB),
        ({**YARN, "spark.executor.memory": "8g"}, 4, 8 * GB // 10),
        ({**YARN, "spark.executor.memory": "1g"}, 4, 384 * MIB),
        ({"spark.master": "yarn"}, 1, 384 * MIB),
        ({**YARN, "spark.executor.memoryOverhead": "2048", "spark.task.cpus": "2"}, 2, 2 * GB),
        ({**YARN, "spark.executor.memoryOverhead": "2g", "spark.executor.pyspark.memory": "3g"}, 4, 3 * GB),
        (K8S, 4, 8 * GB * 2 // 5),
        ({**K8S, "spark.executor.memoryOverheadFactor": "0.25"}, 4, 2 * GB),
        ({**K8S, "spark.executor.memory": "1g", "spark.executor.minMemoryOverhead": "512m"}, 4, 512 * MIB),
        ({"spark.master": "spark://host:7077"}, None, None),
        ({"spark.master": "spark://host:7077", "spark.executor.memory": "8g"}, None, None),
        ({"spark.master": "spark://h:7077", "spark.executor.pyspark.memory": "1g"}, None, GB),
        ({"spark.master": "local-cluster[2,1,1024]"}, None, None),
        ({}, None, None),
    ],
)
def test_what_settings_tell_of_an_executor(
    machine: None, settings: dict[str, str], workers: int | None, python_bytes: int | None
) -> None:
    given = {**dict.fromkeys(weights._SETTINGS, ""), **settings}
    assert executor_of(given, is_here=True) == (workers, python_bytes)


def test_local_of_a_connect_server_is_not_this_machine(machine: None) -> None:
    given = {**dict.fromkeys(weights._SETTINGS, ""), "spark.master": "local[3]"}
    assert executor_of(given, is_here=False) == (3, None)


def chosen(spark: Any, size_bytes: int, *, form: str = "auto", device: str = "cpu") -> str:
    files = (SimpleNamespace(path="m.onnx", size_bytes=size_bytes), SimpleNamespace(path="encoders/0-v", size_bytes=GB))
    return str(weights.choose(spark, SimpleNamespace(weights=form, device=device), SimpleNamespace(files=files)))


@pytest.mark.spark
def test_auto_takes_lean_when_packed_weights_would_pass_half_of_the_python_memory(
    spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 2_000_000_000
    monkeypatch.setattr(weights, "executor_of", lambda settings, is_here: (4, room))
    assert chosen(spark, 170_000_000) == ("fast (packed weights of 4 workers: 1.00 of 2.00 GB of Python memory)")
    assert chosen(spark, 170_000_001).startswith("lean (packed weights of 4 workers: 1.00 of 2.00 GB")
    assert chosen(spark, 170_000_001, form="fast") == "fast (as the pipeline says)"
    assert chosen(spark, 1000, form="lean") == "lean (as the pipeline says)"
    assert chosen(spark, 10**10, device="cuda") == "fast (device: cuda)"
    room = 1
    assert chosen(spark, (16 << 20) - 1) == "fast"
    monkeypatch.setattr(weights, "executor_of", lambda settings, is_here: (None, room))
    assert chosen(spark, 10**10) == "fast (the settings do not tell an executor's cores and Python memory)"


def stop(*_: object) -> None:
    raise RuntimeError("after the first unit")


@pytest.mark.spark
@pytest.mark.slow
def test_a_resume_keeps_the_form_that_was_planned_whatever_memory_there_is_by_then(
    spark: Any, pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "in", 12_000, 2)
    monkeypatch.setattr(weights, "MIN_MODEL_BYTES", 0)
    monkeypatch.setattr(weights, "memory_limit_bytes", lambda: GB + 100 * MIB)
    with pytest.raises(SparkscoreError, match=r"SPS-FAILED"):
        pipeline().run(spark, "r", progress=stop)
    monkeypatch.undo()
    checked = pipeline()
    run = checked.run(spark, "r")
    summary = run.summary()
    assert (summary.state, summary.attempt, summary.weights) == ("SUCCEEDED", 2, "lean")
    assert "of Python memory" in summary.weights_reason
    assert f"  weights      lean ({summary.weights_reason})" in str(summary)
    plan = read_plan(open_store(checked.spec.ledger), "r")
    assert plan is not None
    assert restore(spark, checked.spec, plan).scoring.session.weights == "lean"
    del plan.header["weights"]  # as an earlier version wrote it
    assert restore(spark, checked.spec, plan).scoring.session.weights == "fast"


@pytest.mark.spark
def test_check_shows_the_form_where_there_was_a_choice(spark: Any, pipeline: Any, tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 1000, 1)
    report = pipeline(model={"uri": linear_model(tmp_path / "linear.onnx"), "weights": "lean"}).check(spark)
    assert "  weights      lean (as the pipeline says)" in str(report)
    assert "weights" not in str(replace(report, weights="fast"))
