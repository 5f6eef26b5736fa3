"""Delta's jars: fetched once by Maven or Ivy, checked against their sha256, and then used without a network."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from sparkscore.errors import ClusterError
from sparkscore.spark import jars

SMALLEST = min(jars.PINNED["4.2"], key=lambda jar: "unitycatalog" not in jar.file_name)


def _path_with(tmp_path: Path, *programs: str) -> str:
    folder = tmp_path / "path"
    folder.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found, program
        (folder / program).symlink_to(os.path.realpath(found))
    return str(folder)


def test_jars_that_are_there_need_no_tool_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a-1.jar").write_bytes(b"bytes")
    own = jars.Jar("group:a:1", hashlib.sha256(b"bytes").hexdigest())
    assert jars.fetch([own], tmp_path) == [tmp_path / "a-1.jar"]


@pytest.mark.slow
def test_ivy_fetches_the_pinned_bytes_where_maven_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", _path_with(tmp_path, "java", "sh"))
    [found] = jars.fetch([SMALLEST], tmp_path / "jars")
    assert hashlib.sha256(found.read_bytes()).hexdigest() == SMALLEST.sha256
    assert [path.name for path in found.parent.iterdir()] == [SMALLEST.file_name]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mvn") is None, reason="Maven is not installed; Ivy is used")
def test_a_damaged_jar_is_fetched_again_by_maven(tmp_path: Path) -> None:
    (tmp_path / SMALLEST.file_name).write_bytes(b"half a ja")
    [found] = jars.fetch([SMALLEST], tmp_path)
    assert hashlib.sha256(found.read_bytes()).hexdigest() == SMALLEST.sha256


@pytest.mark.slow
def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(tmp_path: Path) -> None:
    other = jars.Jar(SMALLEST.coordinates, "0" * 64)
    with pytest.raises(ClusterError, match=r"\[SPS-ENV-PACKAGE\].*not the pinned 0000"):
        jars.fetch([other], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_spark_without_pinned_jars_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "pyspark-9.9.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: pyspark\nVersion: 9.9.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ClusterError, match=r"pinned for Spark 4\.2\. Got pyspark 9\.9\.1"):
        jars.ensure()
