"""A place for a store, of each kind that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkscore.ledger.store import Store, open_store

KINDS = [
    "disk",
    pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.slow]),
    pytest.param("hdfs", marks=[pytest.mark.hdfs, pytest.mark.slow]),
]


@pytest.fixture(params=KINDS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a store, of each kind."""
    if request.param == "disk":
        return str(tmp_path)
    if request.param == "hdfs":
        return f"{request.getfixturevalue('hdfs').root}/ledgers/{tmp_path.name}"
    return f"{request.getfixturevalue('s3').bucket('ledgers')}/{tmp_path.name}".replace("s3:", "s3a:")


@pytest.fixture
def store(root: str) -> Store:
    return open_store(root)
