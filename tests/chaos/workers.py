"""Faults of the scoring process and of its model: F1 to F6, F17, F19, F20, F28."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import helper, numpy_helper

from sparkscore.errors import SparkscoreError
from tests.chaos import plant
from tests.chaos.stage import Seen, Stage, table_of
from tests.runtime import hostile_models

__all__ = ["hang", "hostile_model", "memory_limit", "model_changed", "poison_payload"]
__all__ += ["raises", "short_batch", "sigkill", "sigsegv", "silent_exit"]

BATCH = 64  # small, so that a batch with a killing row is bisected in few deaths


def _poisoned(stage: Stage, mark: float, code: str, **on_error: object) -> Seen:
    """Mark two rows, of which each takes its process or its call with it."""
    stage.rows = 2_000
    good = [i for i in range(stage.rows) if i % 977]
    bad = stage.rng.sample(good, 2)
    stage.expected()
    stage.data(dict.fromkeys(bad, mark))
    model = {"uri": str(stage.folder / "linear.onnx"), "batch_size": BATCH}
    run = stage.run(model=model, on_error={"max_fraction": 0.1, **on_error})
    stage.balanced(run)
    found = {row["id"]: row["_ss"]["error_code"] for row in table_of(stage.sink).to_pylist() if row["id"] in bad}
    stage.holds(found == dict.fromkeys(bad, code), f"rows {found}, not {code}")
    unprotected = stage.plain_within(20)
    return stage.seen(f"ok, {len(bad)} rows {code}", unprotected, bad)


def sigkill(stage: Stage) -> Seen:
    return _poisoned(stage, plant.SIGKILL, "SPS-ROW-CRASH")


def sigsegv(stage: Stage) -> Seen:
    return _poisoned(stage, plant.SIGSEGV, "SPS-ROW-CRASH")


def silent_exit(stage: Stage) -> Seen:
    return _poisoned(stage, plant.EXIT, "SPS-ROW-CRASH")


def hang(stage: Stage) -> Seen:
    return _poisoned(stage, plant.HANG, "SPS-ROW-TIMEOUT", batch_timeout_s=1)


def raises(stage: Stage) -> Seen:
    return _poisoned(stage, plant.RAISE, "SPS-ROW-MODEL")


def short_batch(stage: Stage) -> Seen:
    """A call that gives fewer rows than it took is no row's fault: the run ends by name, and resumes when mended."""
    stage.rows = 2_000
    stage.expected()
    stage.data({stage.rng.randrange(1, 900): plant.SHORT})
    ended = stage.ends(codes=["SPS-MODEL-OUTPUT"])
    stage.holds(not list((stage.sink / "_delta_log").glob("*.json")), "rows were committed")
    unprotected = str(stage.plain(stage.folder / "plain"))
    for path in (stage.folder / "in").iterdir():
        path.unlink()
    (stage.folder / "in").rmdir()
    stage.data()
    stage.run("mended")
    return stage.seen(f"{ended}, then ok with mended rows", unprotected)


def memory_limit(stage: Stage) -> Seen:
    """A process that may grow by 96 MB scores a model that wants 80 KB a row in batches that fit."""
    stage.rows = 4_000
    stage.expected()
    stage.data()
    _wide_model(stage.folder / "wide.onnx", stage.folder / "linear.onnx")
    orders = Path(os.environ["SPARKSCORE_CHAOS_ORDERS"])
    orders.write_text(json.dumps({"room_bytes": 96 << 20}))
    try:
        run = stage.run(model={"uri": str(stage.folder / "wide.onnx"), "batch_size": 2_000})
        (stage.folder / "linear.onnx").write_bytes((stage.folder / "wide.onnx").read_bytes())
        unprotected = str(stage.plain(stage.folder / "plain"))
    finally:
        orders.write_text(json.dumps({"lift_limit": True}))
        stage.plain(stage.folder / "lifted")
        orders.write_text("{}")
    stage.balanced(run)
    return stage.seen("ok, in smaller batches", unprotected)


def _wide_model(place: Path, linear: Path) -> None:
    """The linear model by way of 20,000 copies of each answer, of which the largest is taken: the same bits."""
    model = onnx.load(str(linear))
    model.graph.node[0].output[0] = "narrow"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 20_000], np.int64), "copies"))
    model.graph.node.append(helper.make_node("Tile", ["narrow", "copies"], ["copied"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["copied"], ["y"], axes=[1], keepdims=1))
    onnx.save(model, str(place))


def model_changed(stage: Stage) -> Seen:
    """After the pilot the model's file, and every copy of it on the node, hold other weights."""
    stage.data()
    model, changed = stage.folder / "linear.onnx", stage.folder / "changed.onnx"
    loaded = onnx.load(str(model))
    weights = numpy_helper.to_array(loaded.graph.initializer[0])
    loaded.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights * 2, "w"))
    onnx.save(loaded, str(changed))

    copies = {p: p.read_bytes() for p in (model, *Path(os.environ["SPARKSCORE_CACHE"]).rglob("*.onnx"))}

    def change(done: int, *_: object) -> None:
        for copy in copies if done == 1 else ():
            copy.chmod(0o600)
            copy.write_bytes(changed.read_bytes())

    try:
        stage.run(progress=change)
        ended = "ok, by the pinned bytes"
    except SparkscoreError as failure:
        ended = f"{failure.code}, then ok with the model put back"
        stage.holds(failure.code == "SPS-MODEL-DIGEST", f"ended {failure}"[:300])
    unprotected = str(stage.plain(stage.folder / "plain"))
    for copy, data in copies.items():
        copy.write_bytes(data)
    stage.run()
    return stage.seen(ended, unprotected)


def hostile_model(stage: Stage) -> Seen:
    """Refused or contained before a row is scored; the session serves the next run."""
    stage.rows = 2_000
    stage.data()
    stage.expected()
    kind = ("loop", "bomb")[stage.seed % 2]
    proto = hostile_models.loop(2**62) if kind == "loop" else hostile_models.shaped("Expand", 1 << 20, 1 << 20)
    place = stage.folder / "hostile.onnx"
    place.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    keys = {"model": {"uri": str(place)}, "inputs": {"x": ["a", "b"]}}
    ended = stage.ends(codes=["SPS-MODEL-ADMISSION"], **keys)
    stage.run("r2")
    (stage.folder / "linear.onnx").write_bytes(place.read_bytes())
    return stage.seen(f"{kind}: {ended}", stage.plain_within(20, "ab"))


def poison_payload(stage: Stage) -> Seen:
    """The worst texts that a key can hold stand in the quarantine as they are, and nowhere else as markup."""
    stage.rows = 2_000
    stage.data()
    texts = [
        "<script>alert(1)</script>" * 40_000,
        "".join(map(chr, range(1, 32))) + "\u202e\ufeff",
        "'; DROP TABLE t; --",
    ]
    bad = dict(zip(stage.rng.sample([i for i in range(2_000) if i % 977], 3), texts, strict=True))
    for path in sorted((stage.folder / "in").iterdir()):
        table = pq.read_table(path)
        ids = table["id"].to_pylist()
        cells = [None if i in bad else a for i, a in zip(ids, table["a"].to_pylist(), strict=True)]
        table = table.set_column(1, "a", pa.array(cells, pa.float32()))
        pq.write_table(table.append_column("note", pa.array([bad.get(i, "") for i in ids])), path)
    run = stage.run(keys=["id", "note"], on_error={"max_fraction": 0.1})
    stage.balanced(run)
    place = stage.folder / "ledger" / "tables" / "quarantine"
    found = {dict(row)["id"]: dict(row)["note"] for row in table_of(place)["keys"].to_pylist()}
    stage.holds(
        {str(i): found.get(str(i)) for i in bad} == {str(i): t for i, t in bad.items()}, "a key is not as it was"
    )
    return stage.seen("ok, 3 keys kept to the character", "-", bad)
