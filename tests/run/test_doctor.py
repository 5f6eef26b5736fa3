"""Each check of `doctor`, green and red: software and settings by their facts, places and leftovers on a real disk."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from sparkscore.ledger.claims import claim_run
from sparkscore.ledger.events import EventLog
from sparkscore.ledger.store import LocalStore
from sparkscore.run.doctor import leftovers, places, software
from sparkscore.run.doctor.checks import Check
from sparkscore.run.stage import Stage
from sparkscore.spark import probe
from sparkscore.spark.unit_files import Layout
from tests.run.conftest import write_rows

HOME = Path(__file__).parents[2]
NOWHERE = "/proc/sparkscore-has-no-place-here"  # where nobody makes a folder, root included
DAY_S = 24 * 3600


def facts(**changes: Any) -> dict[str, Any]:
    own = {
        "host": "here",
        "pid": 1,
        "python": "3.11.7",
        "distributions": {"onnxruntime": "1.32.0"},
        "available": ["CPUExecutionProvider"],
        "active": "CPUExecutionProvider",
        "versions": {"numpy": "2.4.6", "pandas": "2.3.3", "pyarrow": "26.0.1"},
        "cache": "",
        "receipt": "",
    }
    return {**own, **changes}


def versions(**changes: str) -> dict[str, Any]:
    return facts(versions={**facts()["versions"], **changes})


TWO_WHEELS = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
NO_WHEEL = facts(available=[], active="none: No module named onnxruntime", distributions={})
S3 = {"sink": "s3a://lake/out", "ledger": "/ledger"}

RED: list[tuple[str, str, Callable[[], Check]]] = [
    ("python", "fail", lambda: software.python(facts(), [facts(python="3.12.1")])),
    ("onnxruntime", "fail", lambda: software.onnxruntime(facts(), [facts(distributions=TWO_WHEELS)])),
    ("onnxruntime", "fail", lambda: software.onnxruntime(NO_WHEEL, [])),
    ("provider", "fail", lambda: software.provider("cuda", facts(), [facts()])),
    ("provider", "fail", lambda: software.provider("cpu", facts(), [facts(active="none: x")])),
    ("provider", "warn", lambda: software.provider("auto", facts(), [])),
    ("packages", "fail", lambda: software.packages(facts(), [versions(numpy="1.26.4")], "4.2.0")),
    ("packages", "fail", lambda: software.packages(versions(pandas="3.0.0"), [], "4.2.0")),
    ("packages", "fail", lambda: software.packages(versions(pyarrow="14.0.0"), [], "4.2.0")),
    ("packages", "fail", lambda: software.packages(versions(pyarrow="20.0.0"), [], "3.5.9")),
    ("packages", "fail", lambda: software.packages(facts(versions={"numpy": "2.0.0"}), [], "4.2.0")),
    ("java", "fail", lambda: software.java("1.8.0_402")),
    ("java", "fail", lambda: software.java("11.0.2")),
    ("java", "fail", lambda: software.java("")),
    ("jars", "fail", lambda: _jars("delta-spark_4.0_2.13-4.3.1.jar")),
    ("jars", "fail", lambda: _jars("delta-spark_2.12-3.3.2.jar")),
    ("jars", "fail", lambda: _jars("hadoop-aws-3.4.1.jar")),
    ("jars", "fail", lambda: _jars("aws-java-sdk-bundle-1.12.262.jar")),
    ("attempts", "warn", lambda: software.attempts({"spark.master": "local[4]"})),
    ("attempts", "warn", lambda: software.attempts({"spark.master": "yarn", "spark.task.maxFailures": "1"})),
    ("arrow-limits", "warn", lambda: software.arrow_limits({"spark.sql.execution.arrow.maxRecordsPerBatch": "0"})),
    ("redaction", "warn", lambda: software.redaction({})),
    ("corrupt-files", "warn", lambda: software.corrupt_files({"spark.sql.files.ignoreCorruptFiles": "true"})),
    ("checksums", "warn", lambda: software.checksums({}, "delta")),
    ("gpu", "warn", lambda: software.gpu("cuda", {})),
    ("receipts", "warn", lambda: software.receipts([facts(receipt="Permission denied")])),
    ("source", "fail", lambda: places.source(f"{NOWHERE}/in")),
    ("sink", "fail", lambda: places.written("sink", f"{NOWHERE}/out")),
    ("quarantine", "fail", lambda: places.written("quarantine", f"{NOWHERE}/bad")),
    ("ledger", "fail", lambda: places.ledger(f"{NOWHERE}/ledger")),
    ("clock", "warn", lambda: places.skew(100.0, 90.0, 100.1)),
    ("clock", "fail", lambda: places.skew(100.0, 4_000.0, 100.1)),
    ("disk", "fail", lambda: places.disk({"sink": "/proc/self"})),  # a disk without a byte
    ("model-cache", "fail", lambda: places.model_cache(facts(), [facts(cache="read-only file system")])),
    ("log-store", "warn", lambda: places.log_store(S3, {})),
    ("committer", "warn", lambda: places.committer(S3, {})),
    ("retention", "fail", lambda: places.retained("/t", {"delta.setTransactionRetentionDuration": "x"}, True)),
    ("retention", "fail", lambda: _kept("interval 2 hours")),
    ("retention", "warn", lambda: places.retained("/t", {}, False)),
]


def _jars(name: str) -> Check:
    return software.jars(["delta-storage-4.4.0.jar", name], "4.2.0", "2.13.16", "3.5.0")


def _kept(interval: str) -> Check:
    return places.retained("/t", {"delta.deletedFileRetentionDuration": interval}, True)


@pytest.mark.parametrize(("code", "verdict", "check"), RED, ids=[f"{i}-{c}" for i, (c, _, _) in enumerate(RED)])
def test_what_would_trouble_a_run_is_told_with_a_remedy(code: str, verdict: str, check: Callable[[], Check]) -> None:
    found = check()
    assert (found.code, found.verdict) == (code, verdict), found
    assert found.found
    assert found.remedy


def test_what_is_in_order_is_ok(tmp_path: Path) -> None:
    write_rows(tmp_path / "in", 10, 1)
    here = {name: str(tmp_path / name) for name in ("sink", "ledger")}
    fine = {"spark.master": "local[2,4]", "spark.redaction.regex": software._REDACTION}
    found = [
        software.python(facts(), [facts(python="3.11.2")]),
        software.onnxruntime(facts(), [facts()]),
        software.provider("cpu", facts(), [facts()]),
        software.packages(facts(), [facts()], "4.2.0"),
        software.java("17.0.9"),
        software.java("21"),
        _jars("delta-spark_4.2_2.13-4.4.0.jar"),
        _jars("hadoop-aws-3.5.0.jar"),
        software.attempts(fine),
        software.attempts({"spark.master": "yarn"}),
        software.arrow_limits({}),
        software.redaction(fine),
        software.corrupt_files({}),
        software.checksums({}, "parquet"),
        software.gpu("cuda", {"spark.task.resource.gpu.amount": "1"}),
        software.receipts([facts()]),
        places.source(str(tmp_path / "in")),
        places.written("sink", here["sink"]),
        places.ledger(here["ledger"]),
        places.clock(here["ledger"]),
        places.skew(100.4, 100.0, 100.6),  # a store of whole seconds
        places.disk(here),
        places.log_store(here, {}),
        places.log_store(S3, {"spark.delta.logStore.s3a.impl": "io.delta.storage.S3DynamoDBLogStore"}),
        places.committer(here, {}),
        places.retained("/t", {}, True),
        _kept("interval 2 days"),
    ]
    assert [check for check in found if check.verdict != "ok"] == []


def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    write_rows(tmp_path / "there", 1, 1)
    before = sorted(tmp_path.rglob("*"))
    assert places.written("sink", str(tmp_path / "a" / "b")).verdict == "ok"
    assert places.written("sink", str(tmp_path / "there")).verdict == "ok"
    assert places.ledger(str(tmp_path / "c")).verdict == "ok"
    assert places.clock(str(tmp_path / "c")).verdict == "ok"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_ledger_that_gives_a_name_twice_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(LocalStore, "put_if_absent", lambda self, name, data: not self.put(name, data))
    found = places.ledger(str(tmp_path))
    assert (found.verdict, "given twice" in found.found) == ("fail", True)


def test_a_disk_that_fills_up_is_told(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 500 << 20}))
    assert places.disk({"sink": str(tmp_path)}).verdict == "warn"


def test_this_process_tells_the_provider_that_is_really_active() -> None:
    found = probe.facts("cpu")
    assert found["active"] == "CPUExecutionProvider"
    assert found["distributions"]
    assert found["cache"] == ""
    missing = probe.facts("cuda")["active"]
    assert missing.startswith("none:") or "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _old(path: Path, age_s: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def _unit(root: Path, run_id: str, attempt: int, seq: int) -> Path:
    """Name a file of a staged unit, by the stage itself."""
    stage = Stage(None, LocalStore(root), str(root), run_id, Layout("parquet"))
    return Path(stage._unit_folder(attempt, seq)) / "part"


def test_leftovers_are_told_and_only_what_is_provably_dead_is_removed(tmp_path: Path) -> None:
    store, sink, source = LocalStore(tmp_path / "ledger"), tmp_path / "out", tmp_path / "in"
    for _ in range(2):  # two attempts: the first one was passed over
        with claim_run(store, "r1", take_over=True, say=print):
            pass
    dead = [
        _old(sink / "_temporary" / "0" / "part", 2 * DAY_S),
        _old(tmp_path / "ledger" / "events" / f".{'a' * 32}", 2 * DAY_S),
        _old(_unit(sink, "r1", 1, 0), 2 * DAY_S),
    ]
    LocalStore(sink).put("_manifests/r1/000001.json", b'{"attempt": 1}')
    kept = [
        _old(source / "_temporary" / "0" / "part", 60),  # perhaps still written
        _old(tmp_path / "ledger" / "events" / f".{'b' * 32}", 60),
        _old(_unit(sink, "r1", 1, 1), 2 * DAY_S),  # which is committed
        _old(_unit(sink, "r1", 2, 0), 2 * DAY_S),  # the newest attempt's
        _old(_unit(sink, "other", 1, 0), 2 * DAY_S),  # of a run that this ledger does not know
        _old(sink / "part-0.parquet", 2 * DAY_S),
    ]
    named = {"sink": str(sink), "source[0]": str(source)}
    found = leftovers.find_debris(named, store)
    check = leftovers.temporary(found)
    assert (check.code, check.verdict) == ("temporary", "warn")
    assert "--clean" in check.remedy
    assert leftovers.debris(found).verdict == "warn"
    assert len(leftovers.clean(found)) == 3
    assert [p for p in dead if p.exists()] == []
    assert [p for p in kept if not p.exists()] == []
    assert not (sink / "_temporary").exists()
    in_ledger = _old(_unit(tmp_path / "ledger", "r1", 1, 0), 2 * DAY_S)  # of a table of the catalog
    assert leftovers.clean(leftovers.find_debris({}, store))
    assert not in_ledger.exists()
    again = leftovers.find_debris(named, store)
    assert leftovers.debris(again).verdict == "ok"
    young = leftovers.temporary(again)
    assert (young.verdict, "--clean" in young.remedy) == ("warn", False)


def test_a_run_without_a_driver_is_told_with_the_command_that_resumes_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("plans/r1.json", b"{}")
    with claim_run(store, "r1", say=print) as claim:
        events = EventLog(store, "r1", claim.attempt)
        events.write("run_claimed")
        assert leftovers.open_runs(store).verdict == "ok"
    os.utime(tmp_path / "heartbeat" / "r1.json", (time.time() - 40,) * 2)  # two beats and more ago
    found = leftovers.open_runs(store)
    assert (found.verdict, found.remedy) == ("warn", f"sparkscore runs resume r1 --ledger {tmp_path}")
    events.write("run_failed", exit_code=6)
    assert leftovers.open_runs(store).verdict == "ok"


def test_each_check_is_explained_in_the_docs() -> None:
    headings = set(re.findall(r"^### (\S+)$", (HOME / "docs/doctor.md").read_text(encoding="utf-8"), re.M))
    assert headings == {code for code, _, _ in RED} | {"spark", "temporary", "debris", "open-runs"}
