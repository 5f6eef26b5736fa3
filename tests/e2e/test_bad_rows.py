"""Bad rows are requeued, erased and expired where quarantine and ledger lie on S3 or HDFS, and for a catalog table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import DeltaTable

from sparkscore.ledger.plans import read_plan
from sparkscore.ledger.store import LocalStore
from sparkscore.run.discarding import discard_run
from sparkscore.run.erasing import erase_rows
from sparkscore.run.pipeline import Pipeline
from sparkscore.runtime import files
from tests.e2e.scenario import document, second_reader
from tests.run.conftest import expected_score, linear_model, write_rows

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.lanes]

ROWS = 400
BAD = [7, 107, 207, 307]
ERASED, EXPIRED = 107, 207
FEW = {"max_fraction": 0.5}
# What its owner does with the quarantine beside our commands: a row's date is past; the old files go.
_OWNER = """
import sys
from sparkscore.spark.sessions import local_session
quarantine, key = sys.argv[1:]
spark = local_session(None, {"spark.databricks.delta.retentionDurationCheck.enabled": "false"}, [quarantine])
table = f"delta.`{quarantine}`"
if key:
    past = "expires_at = current_timestamp() - INTERVAL 1 DAY"
    spark.sql(f"UPDATE {table} SET {past} WHERE keys['who'] LIKE '%{key}'")  # the log keeps the text
else:
    spark.sql(f"VACUUM {table} RETAIN 0 HOURS")
"""


def who(i: int) -> str:
    return f"canary-{i:06d}"


# Row 7 is mended, and was bad for want of a value of column a.
MENDED = {"with": {"a": "CASE WHEN id = 7 THEN 1 ELSE a END"}}
GOOD = Counter((i, expected_score(i)) for i in range(ROWS) if i not in BAD)
GOOD[7, expected_score(7) + 0.5 * (1 - 7)] += 1
REPLAYED = {who(i): "replayed_ok" if i == 7 else "replayed_bad" for i in BAD}


def _pipeline(tmp_path: Path, root: str, sink: dict[str, Any], *mended: dict[str, Any]) -> Path:
    keys = {"sink": sink, "keys": ["who"], "keep": ["id"], "outputs": {"score": "y[:, 0]"}, "on_error": FEW}
    keys |= {"prepare": [{"with": {"who": "concat('canary-', lpad(CAST(id AS STRING), 6, '0'))"}}, *mended]}
    keys |= {"quarantine": {"location": f"{root}/bad", "payload": "plain"}, "ledger": f"{root}/ledger"}
    file = tmp_path / f"p{len(mended)}.yaml"
    file.write_text(yaml.safe_dump(document(str(tmp_path), **keys)))
    return file


def _told(*arguments: object) -> Any:
    command = [sys.executable, "-m", "sparkscore", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def _owner(quarantine: str, key: str = "") -> None:
    done = subprocess.run([sys.executable, "-c", _OWNER, quarantine, key], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("store", "format"),
    [
        pytest.param("s3", "delta", marks=pytest.mark.s3),
        pytest.param("hdfs", "parquet", marks=pytest.mark.hdfs),
    ],
)
def test_bad_rows_in_a_store_are_requeued_once_erased_and_expired(
    request: pytest.FixtureRequest, tmp_path: Path, store: str, format: str
) -> None:
    server = request.getfixturevalue(store)
    root = f"{server.bucket('bad').replace('s3:', 's3a:') if store == 's3' else server.root}/{tmp_path.name}"
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i in BAD)
    linear_model(tmp_path / "linear.onnx")
    sink = {"format": format, "location": f"{root}/out"}
    file = _pipeline(tmp_path, root, sink)
    assert _told("score", file, "--run-id", "r1")["quarantined_rows"] == len(BAD)

    mended = _pipeline(tmp_path, root, sink, MENDED)
    again = _told("quarantine", "requeue", "r1", mended)
    assert (again["run_id"], again["planned_rows"]) == ("r1.requeue-1", 4)
    assert (again["ok_rows"], again["quarantined_rows"]) == (1, 3)
    rows = _rows(root, format, tmp_path)
    assert Counter((r["id"], r["score"]) for r in rows if r["_ss"]["status"] == "ok") == GOOD
    assert _states(root, tmp_path, "r1") == REPLAYED
    assert _states(root, tmp_path, "r1.requeue-1") == dict.fromkeys(map(who, BAD[1:]), "open")

    told = _told("quarantine", "erase", mended, "--key", f"who={who(ERASED)}")
    assert told["erased"] == {f"{root}/bad": 2}  # under both runs
    assert any("out" in statement and who(ERASED) in statement for statement in told["sinks"])
    _owner(f"{root}/bad", str(EXPIRED))
    assert _told("quarantine", "expire", mended) == {"expired": {f"{root}/bad": 2}}
    for i in (ERASED, EXPIRED):
        assert _held(who(i), _live(root, tmp_path)) == []
        assert _held(who(i), _below(f"{root}/ledger")) == []
    assert _held(who(307), _live(root, tmp_path))  # the others are there, and this test can see them
    assert _held(who(ERASED), _below(f"{root}/bad"))  # the old files, as is said
    _owner(f"{root}/bad")
    assert _held(who(ERASED), _below(f"{root}/bad")) == []
    assert _told("score", file, "--run-id", "r1")["state"] == "SUCCEEDED"  # the run's own record stands


def _rows(root: str, format: str, tmp_path: Path) -> list[dict[str, Any]]:
    if format == "delta":
        return second_reader(f"{root}/out", tmp_path).to_pylist()
    found = [f.uri for f in files.list_files(f"{root}/out") if f.uri.endswith(".parquet")]
    return [row for uri in found for row in _table(uri).to_pylist()]


def _table(uri: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(files.read_bytes(uri)))


def _states(root: str, tmp_path: Path, run_id: str) -> dict[str, str]:
    rows = second_reader(f"{root}/bad", tmp_path / run_id).to_pylist()
    return {dict(r["keys"]).get("who", ""): r["state"] for r in rows if r["run_id"] == run_id}


def _live(root: str, tmp_path: Path) -> list[str]:
    """Name what the quarantine's newest version and its log consist of."""
    second_reader(f"{root}/bad", tmp_path / "live")
    (copy,) = (tmp_path / "live" / "copies").iterdir()
    log = [f.uri for f in files.list_files(f"{root}/bad/_delta_log")]
    return [*(f"{root}/bad/{Path(uri).name}" for uri in DeltaTable(str(copy)).file_uris()), *log]


def _below(place: str) -> list[str]:
    return [f.uri for f in files.list_files(place)]


def _held(key: str, uris: list[str]) -> list[str]:
    """Name the files in which a key stands, in a row or in the bytes; rows behind deletion vectors count."""
    held = []
    for uri in uris:
        data = files.read_bytes(uri)
        is_rows = uri.endswith(".parquet") and "/_delta_log/" not in uri
        text = str(_table(uri).to_pylist()).encode() if is_rows else b""
        held += [uri] if key.encode() in data + text else []
    return held


@pytest.mark.parametrize("publish", ["progressive", "atomic"])
def test_bad_rows_of_a_catalog_table_are_requeued_once_erased_and_taken_back(
    spark, tmp_path: Path, publish: str
) -> None:
    write_rows(tmp_path / "in", ROWS, 2, bad=lambda i: i in BAD)
    linear_model(tmp_path / "linear.onnx")
    spark.sql("CREATE SCHEMA IF NOT EXISTS lake")
    root, name = str(tmp_path), f"lake.scores_{publish}"
    sink, store = {"format": "delta", "table": name, "publish": publish}, LocalStore(tmp_path / "ledger")
    Pipeline.load(_pipeline(tmp_path, root, sink)).run(spark, run_id="r1")
    mended = Pipeline.load(_pipeline(tmp_path, root, sink, MENDED))
    again = mended.requeue("r1", spark).summary()
    assert (again.planned_rows, again.ok_rows, again.quarantined_rows) == (4, 1, 3)
    assert mended.requeue("r1", spark).summary().repeated
    good = Counter((r.id, r.score) for r in spark.table(f"{name}_ok").select("id", "score").collect())
    assert good == GOOD
    assert _states(root, tmp_path, "r1") == REPLAYED

    erased, (statement,) = erase_rows(spark, store, {"who": who(ERASED)})
    assert erased == {f"{root}/bad": 2}
    spark.sql(statement)
    assert spark.table(name).where(f"who = '{who(ERASED)}'").isEmpty()
    assert _held(who(ERASED), [*_live(root, tmp_path), *_below(f"{root}/ledger")]) == []
    discard_run(spark, store, read_plan(store, "r1.requeue-1"))
    assert _states(root, tmp_path, "r1") == {who(i): "open" for i in BAD if i != ERASED} | {"": "expired"}
    assert set(_states(root, tmp_path, "r1.requeue-1")) == {"", who(207), who(307)}
    again = mended.requeue("r1", spark).summary()  # the one that was erased has no address, and is left out
    assert (again.run_id, again.planned_rows, again.ok_rows) == ("r1.requeue-2", 3, 1)
    assert spark.table(f"{name}_ok").count() == ROWS - len(BAD) + 1
