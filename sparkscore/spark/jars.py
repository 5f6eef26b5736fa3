"""Brings the jars of Delta, Avro and S3 into a folder, once, from lists pinned by sha256; then Spark needs no network.

The lists are complete: nothing is resolved, so what Spark ships itself (Hadoop, Parquet, Jackson, …) never comes
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


# Spark line -> its jars. A new line: copy-dependencies of delta-spark without the groups that Spark ships itself, and
# spark-avro (92 KB), which Spark does not ship.
PINNED: dict[str, tuple[Jar, ...]] = {
    "4.2": _jars("""
        27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead  io.delta:delta-spark_4.2_2.13:4.4.0
        c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc  io.delta:delta-storage:4.4.0
        ee9b5a14ac3b7efdff4d61a58478fe8eb0e5a3fbca43889dca7290795fe79a11  io.delta:delta-kernel-api:4.4.0
        225c975199e4718b38ee5b7e6da7f19e9585024262b2cec2656b32151a856b0b  io.delta:delta-kernel-defaults:4.4.0
        cea22dfb4ac562b3cd27bf652697750e8336009d73fb06631363aaaad5345ffa  io.delta:delta-kernel-unitycatalog:4.4.0
        48257499a86b801a3e2372cec55ac226ca1c1c7eabe5c118e7302f29a1fdbc19  io.unitycatalog:unitycatalog-client:0.6.0
        c47b63c961c87102b9e1d63809a0915ba4c86b7652f57c8d39ca3a05b441a150  io.unitycatalog:unitycatalog-hadoop:0.6.0
        4c186cedc03cbe4ee356a94b32232b347ef48611c3209400b3a77e4fe4abff4f  org.apache.spark:spark-avro_2.13:4.2.0
    """),
}
# Spark line -> what reads and writes s3a://, for the Hadoop that it bundles. hadoop-aws names an SDK bundle of 686 MB:
# these are the modules of it that S3A uses (s3, s3-transfer-manager, sts, apache-client, netty-nio-client) and what
# they depend on, without what Spark ships itself.
PINNED_S3: dict[str, tuple[Jar, ...]] = {
    "4.2": _jars("""
        66bd9eefb938b1a1657487324b63c13df2d8b17164a1dd24e0ef37b905bc5baa  org.apache.hadoop:hadoop-aws:3.5.0
        f75ca597789b3dac58f61857b9ac2e1034a68fa672db35055a8fb4509e325f28  org.reactivestreams:reactive-streams:1.0.4
        71fb7932f99a727edb23c5a2cb8c6855ac7196fad41aa0669b3998e277165154  org.wildfly.openssl:wildfly-openssl:2.2.5.Final
        6f36bd87155d1dd85d6efbdd29e532e3759a022211feb71affebee1aa34f04b8  software.amazon.awssdk:annotations:2.35.4
        6eade21b482724ed0a4613eaa95d20e47e7a81304bd28538ac427fece94a7740  software.amazon.awssdk:apache-client:2.35.4
        c63cc29f76a8527e9e10b621703163df541dc5cb315508dc2898518602c75380  software.amazon.awssdk:arns:2.35.4
        6b601323004833fb4a857ffc95db4795e0e6320eb93e64b1246c655c9ff04994  software.amazon.awssdk:auth:2.35.4
        fdb5fc8f1a48d97fa7d04d3460fb42f6973c7b1bbe1b9d317871ef0162bcb623  software.amazon.awssdk:aws-core:2.35.4
        9b4cf9b78977cc9f5b4ceae9c435dedbde6a055a0f8d9e053eaca945715e2a9f  software.amazon.awssdk:aws-query-protocol:2.35.4
        4f59176da2522c357b1993e4a890fde529f12f365795ef86269bde4a3984cd0d  software.amazon.awssdk:aws-xml-protocol:2.35.4
        94464af4374d08ecf33ca06ed4d03e1615529e547726e26b56abacefbeee7948  software.amazon.awssdk:checksums:2.35.4
        88b5af85ac2d3c862be8856be4e683ab31932e4a5a3c1c45af864d2671ac7cec  software.amazon.awssdk:checksums-spi:2.35.4
        2c6aaa17bf9ccbb9d962dded4351e73decb197e3c5519970e0dae17e05d3df62  software.amazon.awssdk:crt-core:2.35.4
        ef02441bda916959b8341290b49c68cc35538e1ad6f8629b75d8334dc6653e00  software.amazon.awssdk:endpoints-spi:2.35.4
        3ec933a06e751a05e195eb3589209e23c44e1897263b6fcae34ef4cc63cd4491  software.amazon.awssdk:http-auth:2.35.4
        c4acb92fdec90bfd9b67bfab8e41b69cd152c03cacc10281a8ab464791856e01  software.amazon.awssdk:http-auth-aws:2.35.4
        709107552f302be3fa9e05969a3779f5c0f07fb809e6fa1fa571a6f0c61326dd  software.amazon.awssdk:http-auth-aws-eventstream:2.35.4
        4495463406bb98eb136f2c3f3604ed5f08ec9974ebc3f34f2121b20679f61d5c  software.amazon.awssdk:http-auth-spi:2.35.4
        728be89b2a07b595edb0adee3a2cbbbdd4cb1f4caddde0d08c3979fe2620dedb  software.amazon.awssdk:http-client-spi:2.35.4
        188d73db7d4e2361654bc3c5a1b3eaeb445d0500fb012cc46c5d67975adf97bf  software.amazon.awssdk:identity-spi:2.35.4
        80d67a6bb3e7eb49c7d4b6e4ba4c1463ed7da0192b795158328602dc131c5ecc  software.amazon.awssdk:json-utils:2.35.4
        c2a4ee90a21081317e2e6eba0c414d05d3d518aed2f86b1c1710a7367b450487  software.amazon.awssdk:metrics-spi:2.35.4
        b82f8b33e5c85273a47da45ede884d7ccb31c9c2f69e6910a76c5c48fa1275dc  software.amazon.awssdk:netty-nio-client:2.35.4
        0f4ef7ca72ccd80dd49ebeaf7f3ce60a7d7a00da59a91aeeae6e91052bbacbd8  software.amazon.awssdk:profiles:2.35.4
        f2532eca6ba2142fe4821d5decb03c83a3e15dc8bfae2240e7f2efa75f9868b5  software.amazon.awssdk:protocol-core:2.35.4
        77eae87b34ce96ecdf916a9bc06684dbeafcb6d38ef0513285fa5d5d6d41f5ca  software.amazon.awssdk:regions:2.35.4
        f99fb2f8c66d7e859955b3542d3af8f9de8f23a21d5e3250f0f2c5f18487e469  software.amazon.awssdk:retries:2.35.4
        668638751d059c527ddd41ffa4dcebe36a7c14860ed56776df09b861c14dc7dd  software.amazon.awssdk:retries-spi:2.35.4
        f23532c5223be9b0bfec0d72837ed09ed34dbdf8022818ba145b20076a78b4bc  software.amazon.awssdk:s3:2.35.4
        0eec78870b3d0abc509a847072cf963cb2ae6e360dc6161a9449b3398c470476  software.amazon.awssdk:s3-transfer-manager:2.35.4
        fa559a4ce598852f3519c8f3b36250f583b0858a7611eedc4a81997778c617f4  software.amazon.awssdk:sdk-core:2.35.4
        8d0f7816d3f96e3f00249f5d054d926e939a104bcf9ef57676ee0b16c59684d2  software.amazon.awssdk:sts:2.35.4
        32f4252c6c2df8f3a4aff885e6dc77024ad6b4cb48455d07b461ec30c41643ea  software.amazon.awssdk:third-party-jackson-core:2.35.4
        642aeef536a071668f0b772f05f9d21573abf6955e7b6fb5fdb893760cca10e8  software.amazon.awssdk:utils:2.35.4
        e004806def5e22ec98edc48a133ff3317166255e1ba29d93d129e9fdfa64a7be  software.amazon.awssdk:utils-lite:2.35.4
        0c37d8e696117f02c302191b8110b0d0eb20fa412fce34c3a269ec73c16ce822  software.amazon.eventstream:eventstream:1.0.1
        4959a9747cbb479c73c3ffbcd479bee5b014f8b2880994585a8693fb9d24675e  software.amazon.s3.analyticsaccelerator:analyticsaccelerator-s3:1.3.1
    """),  # noqa: E501  # a sha256 and a name have no place to break
}


def ensure(folder: Path | None = None, *, s3: bool = False) -> list[Path]:
    """Make the jars for the installed pyspark stand in a folder, and return them for ``spark.jars``.

    Parameters
    ----------
    folder : Path, optional
        By default ``.jars/spark-<line>`` of a clone, else ``jars/spark-<line>`` of the node's cache; those for S3 stand
        beside it, in ``s3-<line>``.
    s3 : bool
        Delta's jars and those for ``s3a://``; by default Delta's alone.

    Returns
    -------
    list of Path
        Absolute, in the order of `PINNED` and `PINNED_S3`; every file's sha256 was checked in this call.

    Raises
    ------
    ClusterError
        ``SPS-ENV-PACKAGE`` when pyspark is missing or of a line without a list, when nothing can fetch the jars,
        or when what was fetched is not what is pinned.
    """
    line = _spark_line()
    clone = Path(__file__).parents[2]
    home = clone / ".jars" if (clone / "setup.py").is_file() else cache_root() / "jars"
    found = fetch(PINNED[line], folder or home / f"spark-{line}")
    return found + fetch(PINNED_S3[line], folder or home / f"s3-{line}") if s3 else found


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
