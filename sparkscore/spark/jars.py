"""Brings Delta's jars into a local folder, once, from a list pinned by sha256; afterwards Spark needs no network.

The list is complete: nothing is resolved, so what Spark ships itself (Hadoop, Parquet, Jackson, …) never comes
a second time. Maven fetches it where it is installed; otherwise the Ivy that is inside pyspark, with settings of
its own, because the usual ones fail on a Maven folder that holds a pom without its jar.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparkscore.errors import error
from sparkscore.runtime.cache import cache_root
from sparkscore.spark.java import java_home

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 600


@dataclass(frozen=True)
class Jar:
    """One jar of Maven's central repository: ``group:artifact:version`` and the sha256 of its bytes, in hex."""

    coordinates: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name of the file in the folder."""
        _, artifact, version = self.coordinates.split(":")
        return f"{artifact}-{version}.jar"


def _jars(text: str) -> tuple[Jar, ...]:
    pairs = (line.split() for line in text.strip().splitlines())
    return tuple(Jar(coordinates, sha256) for sha256, coordinates in pairs)


# Spark line -> its jars. A new line: copy-dependencies of delta-spark without the groups that Spark ships itself.
PINNED: dict[str, tuple[Jar, ...]] = {
    "4.2": _jars("""
        27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead  io.delta:delta-spark_4.2_2.13:4.4.0
        c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc  io.delta:delta-storage:4.4.0
        ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11  io.delta:delta-kernel-api:4.4.0
        225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b  io.delta:delta-kernel-defaults:4.4.0
        cea22dfb4ac562b3cd27bf652697750e8336009d73fb06631363aaaad5345ffa  io.delta:delta-kernel-unitycatalog:4.4.0
        48257499a86b801a3e2372cec55ac226ca1c1c7eabe5c118e7302f29a1fdbc19  io.unitycatalog:unitycatalog-client:0.6.0
        c47b63c961c87102b9e1d63809a0915ba4c86b7652f57c8d39ca3a05b441a150  io.unitycatalog:unitycatalog-hadoop:0.6.0
    """),
}


def ensure(folder: Path | None = None) -> list[Path]:
    """Make Delta's jars for the installed pyspark stand in a folder, and return them for ``spark.jars``.

    Parameters
    ----------
    folder : Path, optional
        By default ``.jars/spark-<line>`` of a clone, else ``jars/spark-<line>`` of the node's cache.

    Returns
    -------
    list of Path
        Absolute, in the order of `PINNED`; every file's sha256 was checked in this call.

    Raises
    ------
    ClusterError
        ``SPS-ENV-PACKAGE`` when pyspark is missing or of a line without a list, when nothing can fetch the jars,
        or when what was fetched is not what is pinned.
    """
    line = _spark_line()
    clone = Path(__file__).parents[2]
    home = clone / ".jars" if (clone / "setup.py").is_file() else cache_root() / "jars"
    return fetch(PINNED[line], folder or home / f"spark-{line}")


def fetch(jars: Sequence[Jar], folder: Path) -> list[Path]:
    """Make `jars`, and nothing that they depend on, stand in `folder`; as `ensure`, for a list of your own."""
    missing = [jar for jar in jars if _digest(folder / jar.file_name) != jar.sha256]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            _download(missing, Path(scratch))
            for jar in missing:
                Path(scratch, jar.file_name).replace(folder / jar.file_name)  # a second process does no harm
    return [(folder / jar.file_name).absolute() for jar in jars]


def _spark_line() -> str:
    try:
        version = importlib.metadata.version("pyspark")
    except importlib.metadata.PackageNotFoundError as e:
        fix = "Run: pip install 'sparkscore[spark]'."
        raise error("SPS-ENV-PACKAGE", "Delta's jars depend on the version of pyspark. Got none.", fix) from e
    line = ".".join(version.split(".")[:2])
    if line not in PINNED:
        known = " and ".join(PINNED)
        fix = f"Install pyspark {known}, or give the jars of your cluster in spark.jars."
        raise error("SPS-ENV-PACKAGE", f"Delta's jars are pinned for Spark {known}. Got pyspark {version}.", fix)
    return line


def _download(jars: Sequence[Jar], scratch: Path) -> None:
    """Fetch with the first tool that gives the pinned bytes; what the others said goes into the error."""
    refusals = []
    for tool in (_with_maven, _with_ivy):
        refusal = tool(jars, scratch) or _difference(jars, scratch)
        if refusal is None:
            log.info("%d jars fetched by %s", len(jars), tool.__name__.removeprefix("_with_"))
            return
        refusals.append(refusal)
    raise error(
        "SPS-ENV-PACKAGE",
        f"Expected to fetch {', '.join(jar.file_name for jar in jars)}. Got: {'; '.join(refusals)}.",
        "Connect to the network once, or copy these files by hand into the folder.",
        folder=scratch.parent,
    )


def _difference(jars: Iterable[Jar], folder: Path) -> str | None:
    for jar in jars:
        digest = _digest(folder / jar.file_name)
        if digest != jar.sha256:
            return f"{jar.file_name} with sha256 {digest or 'of no file'}, not the pinned {jar.sha256}"
    return None


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


_POM = """<project><modelVersion>4.0.0</modelVersion>
<groupId>sparkscore</groupId><artifactId>jars</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>{}</dependencies></project>"""
_POM_DEPENDENCY = """<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>
<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>"""


def _with_maven(jars: Sequence[Jar], scratch: Path) -> str | None:
    maven = shutil.which("mvn")
    if maven is None:
        return "no Maven on the path"
    pom = scratch / "pom.xml"
    pom.write_text(_POM.format(_each(jars, _POM_DEPENDENCY)))
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={scratch}"]
    return _refusal("Maven", [maven, "-q", "-B", "-f", str(pom), *goal])


_IVY_SETTINGS = """<ivysettings><settings defaultResolver="central"/><caches defaultCacheDir="{}"/>
<resolvers><ibiblio name="central" m2compatible="true"/></resolvers></ivysettings>"""
_IVY = """<ivy-module version="2.0"><info organisation="sparkscore" module="jars"/>
<dependencies>{}</dependencies></ivy-module>"""
_IVY_DEPENDENCY = '<dependency org="{}" name="{}" rev="{}" transitive="false" conf="default->master"/>'


def _with_ivy(jars: Sequence[Jar], scratch: Path) -> str | None:
    pyspark = importlib.util.find_spec("pyspark")
    ivy = next(Path(pyspark.origin).parent.glob("jars/ivy-*.jar"), None) if pyspark and pyspark.origin else None
    if ivy is None:
        return "no Ivy inside pyspark"
    settings, module = scratch / "ivysettings.xml", scratch / "ivy.xml"
    settings.write_text(_IVY_SETTINGS.format(scratch / "ivy-cache"))
    module.write_text(_IVY.format(_each(jars, _IVY_DEPENDENCY)))
    java = [str(java_home() / "bin" / "java"), "-cp", str(ivy), "org.apache.ivy.Main", "-warn"]
    where = ["-settings", str(settings), "-ivy", str(module)]
    return _refusal("Ivy", [*java, *where, "-retrieve", f"{scratch}/[artifact]-[revision].[ext]"])


def _each(jars: Iterable[Jar], template: str) -> str:
    return "\n".join(template.format(*jar.coordinates.split(":")) for jar in jars)


def _refusal(tool: str, command: list[str]) -> str | None:
    """Run a fetching tool; what it said when it failed, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{tool} gave no answer for {FETCH_TIMEOUT_S} s"
    return f"{tool}: {(done.stdout + done.stderr).strip()[-400:]}" if done.returncode else None
