"""A sink's place that cannot hold manifests is told of the sink."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.ledger.store import LocalStore
from sparkscore.run.sink_store import SinkStore


def test_what_the_place_of_a_sink_refuses_is_told_of_the_sink(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = SinkStore(LocalStore(tmp_path / "file"))
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-SINK.*a sink's place.*`sink\.location`") as caught:
        store.put_if_absent("_manifests/r/000000.json", b"{}")
    assert "ledger" not in caught.value.message + caught.value.fix


def test_a_place_without_hard_links_is_refused_as_a_ledger_would_be(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SparkscoreError, match=r"SPS-ENV-SINK.*hard links"):
        SinkStore(LocalStore(tmp_path)).put_if_absent("a.json", b"{}")
