"""Two runs at once on one sink, quarantine and ledger, each in a driver of its own: every row of both is there once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.scenario import document, put_up, second_reader
from tests.e2e.two_writers import COMMITS
from tests.hdfs import HdfsServer
from tests.servers import S3Server

pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.s3,
    pytest.mark.hdfs,
    pytest.mark.timeout(600),
    pytest.mark.turn(1, 3),
]

ROWS, UNITS, EVERY = 20_000, 2, 1_000


def test_two_drivers_on_a_disk_s3_and_hdfs_lose_and_double_nothing(
    s3: S3Server, hdfs: HdfsServer, tmp_path: Path
) -> None:
    disk, lake = tmp_path / "disk", f"{s3.bucket('shared')}".replace("s3:", "s3a:")
    roots = [str(disk), lake, f"{hdfs.root}/shared"]
    put_up(disk, ROWS, UNITS, EVERY, *roots[1:])
    documents = [tmp_path / f"{i}.yaml" for i in range(len(roots))]
    for path, root in zip(documents, roots, strict=True):
        path.write_text(yaml.safe_dump(document(root)))

    told = _together(tmp_path / "barriers", documents)

    for root in roots:
        sink = second_reader(f"{root}/out", tmp_path)
        runs = sink["_ss"].combine_chunks().field("run_id").to_pylist()
        assert Counter(zip(runs, sink["id"].to_pylist(), strict=True)) == Counter(
            (run, i) for run in ("r0", "r1") for i in range(ROWS)
        )
        bad = second_reader(f"{root}/bad", tmp_path)
        assert Counter(bad["run_id"].to_pylist()) == {"r0": ROWS // EVERY, "r1": ROWS // EVERY}
        states = second_reader(f"{root}/ledger/tables/runs", tmp_path)
        assert sorted(zip(states["run_id"].to_pylist(), states["state"].to_pylist(), strict=True)) == [
            ("r0", "SUCCEEDED"),
            ("r1", "SUCCEEDED"),
        ]
    assert [list(one["lost"].values()) for one in told] == [[0, 0, 0]] * 2
    names = {f"{me}/{number}" for me in (0, 1) for number in range(COMMITS)}
    assert set(second_reader(f"{lake}/leased", tmp_path)["name"].to_pylist()) == names
    # What Delta alone makes of the same race on S3: each of the two was told that it committed.
    committed, there = told[0]["commits"], len(second_reader(f"{lake}/unprotected", tmp_path))
    assert there < committed


def _together(barriers: Path, documents: list[Path]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.e2e.two_writers"]
    drivers = [
        subprocess.Popen(
            [*command, str(me), str(barriers), *map(str, documents)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for me in (0, 1)
    ]
    try:
        ended = [driver.communicate(timeout=400) for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()  # only where one hangs
    assert [driver.returncode for driver in drivers] == [0, 0], [err.decode()[-2000:] for _, err in ended]
    return [json.loads(out.splitlines()[-1]) for out, _ in ended]
