"""Real servers that tests talk to, on the loopback, from pinned packages: an S3-compatible store."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest

from sparkscore.errors import SparkscoreError
from sparkscore.spark import jars
from sparkscore.spark.java import java_home

START_LIMIT_S = 60

# s3proxy with what its file system provider loads; the rest of its 152 jars are clients of other clouds.
# jackson-annotations 2.21 is newer than what s3proxy's own pom brings, and needed.
S3PROXY = jars._jars("""
5a13b0f7ff519183e55b8f453b8faaa23b92ccf0443f1fac515fedf2246bdc18 args4j:args4j:2.37
beebede8db065fe1b72909ecc66bb49acda618901635d86c25fce14a5915e37e ch.qos.logback:logback-classic:1.6.3
a6967a28c8b086dee75a694d2f6fb8830c71153539866d7d8af065c9b6df91e0 ch.qos.logback:logback-core:1.6.3
53ca085f4a150f703f49e1aabd935bd03b43e1ea3d55d135438292af22cef56b com.fasterxml.jackson.core:jackson-annotations:2.21
eeb3853282c24964a93a6eb4c1bbcb60c8d09fd8e0ffc75ab64ad21045a1fa78 com.fasterxml.woodstox:woodstox-core:7.0.0
796d8e28ac64e83a47c4c5935a8fecc4682650a04bbdead738ef0f5a3a0e6c46 com.google.guava:guava:33.7.1-jre
c034eb1afb158987dbb53a5fea0cadf611c8dae8daadd59c44d9d5ab70129cef jakarta.servlet:jakarta.servlet-api:6.0.0
a61c48d553efad78bc01fffc4ac528bebbae64cbaec170b2a5e39cf61eb51abe org.codehaus.woodstox:stax2-api:4.2.2
d0a0886f02f31f025304194e637343cc15c63a958a5e25b6ca9e910e197ede85 org.gaul:s3proxy:4.1.0
44508fd1576500688c790b190acdd16fec4f8c79a3e0b900afd70503cf055f55 org.slf4j:slf4j-api:2.0.18
c991709ecc534c20936394f2cdb44243db3b62bb7b89c3db6c51ffc59411a6ee software.amazon.awssdk:aws-core:2.54.2
e077d6011b4a7b191662467bc1e60fe0de50a40ed0e6b4ce2b30d9d3abbe90ae software.amazon.awssdk:checksums-spi:2.54.2
9723c92010530e795e5418563332c29d89e2250b395258ec2d377e2c046cc477 software.amazon.awssdk:checksums:2.54.2
c90bcca41bf109015def94e23ccb3d0e9b55227affdaec0f3f1ab2ac2f4b58f3 software.amazon.awssdk:http-client-spi:2.54.2
f52a79a2b8462f27a03eaa410005f453a72e672b588877f7b3d1b7969a13f09f software.amazon.awssdk:s3:2.54.2
e30fea4b8db14c1a5d65f4cc8679f4f5323e21b6ddf98a61b541014ec126236e software.amazon.awssdk:sdk-core:2.54.2
5739fe61937f17842c2f655dd7c6b09fa3a59f2e876125d9d5f8b305b9e406b0 software.amazon.awssdk:utils:2.54.2
93d9090b8c505b2f942ad85dd5821e8c401bfbafafff11708a3fbe2ef9da18ca tools.jackson.core:jackson-core:3.2.2
d27509f990d990fc779a01f3f612005ff6c67dc3bb0a720f5f4d9b2f5c713401 tools.jackson.core:jackson-databind:3.2.2
627a1c904e866822c929fec9c4447068f78f3b94fa84d1fd1b47f6ce1e7dca4a tools.jackson.dataformat:jackson-dataformat-xml:3.2.2
""")

_QUIET = """<configuration><appender name="err" class="ch.qos.logback.core.ConsoleAppender">
<target>System.err</target><encoder><pattern>%msg%n</pattern></encoder></appender>
<root level="WARN"><appender-ref ref="err"/></root></configuration>"""


@dataclass(frozen=True)
class S3Server:
    """An S3-compatible server: real signatures, real conditional puts; a bucket is a folder in `folder`."""

    endpoint: str
    access_key: str
    secret_key: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def bucket(self, name: str) -> str:
        """Make a bucket, and give its URI."""
        (self.folder / name).mkdir(exist_ok=True)
        return f"s3://{name}"


@contextmanager
def s3_server(tmp_path: Path) -> Iterator[S3Server]:
    """Run a server whose objects are in `tmp_path`; skips the test where there is no Java or no jars."""
    try:
        java = java_home() / "bin" / "java"
        classpath = jars.fetch(S3PROXY, Path(__file__).parents[1] / ".jars" / "s3proxy")
    except SparkscoreError as cause:
        pytest.skip(f"no S3 server: {cause}")
    port, folder = free_port(), tmp_path / "buckets"
    folder.mkdir()
    (tmp_path / "logback.xml").write_text(_QUIET)
    server = {
        "s3proxy.endpoint": f"http://127.0.0.1:{port}",
        "s3proxy.authorization": "aws-v2-or-v4",
        "s3proxy.identity": "tests",
        "s3proxy.credential": "secret of the tests",
        "s3proxy.ignore-unknown-headers": "true",
        "jclouds.provider": "filesystem-nio2",
        "jclouds.identity": "x",
        "jclouds.credential": "x",
        "jclouds.filesystem.basedir": str(folder),
    }
    properties = tmp_path / "s3proxy.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in server.items()))
    options = [f"-Dlogback.configurationFile={tmp_path / 'logback.xml'}", "-Xmx256m"]
    command = [str(java), *options, "-cp", ":".join(map(str, classpath)), "org.gaul.s3proxy.Main"]
    with (tmp_path / "s3proxy.log").open("wb") as log:
        process = subprocess.Popen([*command, "--properties", str(properties)], stdout=log, stderr=log)
    try:
        _await_port(port, process, tmp_path / "s3proxy.log")
        yield S3Server(server["s3proxy.endpoint"], server["s3proxy.identity"], server["s3proxy.credential"], folder)
    finally:
        process.terminate()  # this server, and no other
        process.wait(10)


class SlowDoor:
    """A way to a server that holds each request back for a while, and counts how many are on their way at once."""

    def __init__(self, endpoint: str, delay_s: float) -> None:
        self._to = int(endpoint.rsplit(":", 1)[1])
        self._delay_s = delay_s
        self._waiting = self.most_at_once = 0

    async def serve(self, ready: Queue[int]) -> None:
        """Answer until `stop`; the port goes to `ready`."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        ready.put(server.sockets[0].getsockname()[1])
        await self._stopped.wait()
        server.close()

    def stop(self) -> None:
        """End the serving, from another thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _connected(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_in, server_out = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(self._requests(client_in, server_out), _copied(server_in, client_out))

    async def _requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(2**16):
            self._waiting += 1
            self.most_at_once = max(self.most_at_once, self._waiting)
            await asyncio.sleep(self._delay_s)
            self._waiting -= 1
            sink.write(data)
        sink.close()


@contextmanager
def slow_door(endpoint: str, delay_s: float = 0.1) -> Iterator[tuple[SlowDoor, str]]:
    """Open a slow door to a server, on a thread of its own: the door, and its own endpoint."""
    door, ports = SlowDoor(endpoint, delay_s), Queue[int]()
    thread = Thread(target=lambda: asyncio.run(door.serve(ports)), daemon=True)
    thread.start()
    try:
        yield door, f"http://127.0.0.1:{ports.get(timeout=10)}"
    finally:
        door.stop()
        thread.join(10)


async def _copied(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(2**16):
        sink.write(data)
    sink.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
        pytest.fail(f"the S3 server did not start: {log.read_text()[-500:]}")
