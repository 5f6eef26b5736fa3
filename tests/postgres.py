"""A real PostgreSQL on the loopback, of the machine's own packages, with a table of rows and a user with a password."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.spark import jars
from tests.servers import _await_port, free_port

DRIVER = jars._jars("""
2a32a9dcbc42d67a50ad3a0de5efd102c8d2be46720045f2cbd6689f160ab7c7  org.postgresql:postgresql:42.7.8
""")
USER, PASSWORD = "scorer", "pg/canary+word"


@dataclass(frozen=True)
class Postgres:
    """A server with one database, `lake`."""

    port: int
    bin: Path

    @property
    def url(self) -> str:
        """Its address for JDBC, without a secret."""
        return f"jdbc:postgresql://127.0.0.1:{self.port}/lake"

    def source(self, **options: str) -> dict[str, Any]:
        """Give a pipeline's source over a table or query; the password is in the environment, as TX_PASSWORD."""
        options = {"url": self.url, "driver": "org.postgresql.Driver", "user": USER, **options}
        return {"format": "jdbc", "options": options, "credentials": {"password": "env:TX_PASSWORD"}}

    def sql(self, text: str) -> str:
        """Carry out statements; what they print, unadorned."""
        command = [self.bin / "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGDATABASE": "lake"}
        environment = {**os.environ, **where, "PGUSER": USER, "PGPASSWORD": PASSWORD}
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def driver() -> Path | None:
    """Give PostgreSQL's JDBC driver, None where it cannot be fetched."""
    try:
        return jars.fetch(DRIVER, Path(__file__).parents[1] / ".jars" / "postgresql")[0]
    except SparkscoreError:
        return None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server in a folder of its own; skips the test where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    if driver() is None:
        pytest.skip("no JDBC driver of PostgreSQL: it could not be fetched")
    user = _unprivileged()
    # Not below pytest's folder, which only its owner may enter: a server refuses to run as root.
    home = Path(tempfile.mkdtemp(prefix="sparkscore-postgres-"))
    try:
        secret = home / "password"
        secret.write_text(PASSWORD)
        if user is not None:
            for path in (home, secret):
                shutil.chown(path, user)
        data, port = home / "data", free_port()
        init = [programs / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8"]
        subprocess.run([*init, "--no-sync", "--no-locale"], user=user, cwd=home, check=True, stdout=subprocess.DEVNULL)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": home, "fsync": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *options], user=user, cwd=home, stdout=log, stderr=log
            )
        try:
            _await_port(port, server, home / "log")
            found = Postgres(port, programs)
            _create_database(found)
            yield found
        finally:
            server.terminate()  # this server, and no other; SIGTERM waits for its clients, SIGINT does not
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(10)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _create_database(server: Postgres) -> None:
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    where = ["-h", "127.0.0.1", "-p", str(server.port), "-U", USER]
    command = [server.bin / "createdb", *where, "lake"]
    for left in reversed(range(50)):  # the port answers a little before the server takes clients
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return
        assert left, done.stderr


def _programs() -> Path | None:
    """Find the folder of the server's programs; Debian keeps it off the path, by version."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4]))
    path = Path(found) if found else debian[-1] if debian else None
    return path.resolve().parent if path else None


def _unprivileged() -> str | None:
    """Name the user to run the server as where the tests run as root; None: as they run."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)
