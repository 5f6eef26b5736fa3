"""What is set right in a worker: the sockets of the process answer at once, and nothing else of it is touched."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from sparkscore.spark.workers import answer_at_once

NO_DELAY = socket.IPPROTO_TCP, socket.TCP_NODELAY


def connected():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def test_every_tcp_socket_answers_at_once_and_stays_open():
    near, far = connected()
    one, other = socket.socketpair()
    reader, writer = os.pipe()
    with near, far, one, other:
        assert near.getsockopt(*NO_DELAY) == 0
        answer_at_once.__wrapped__()
        assert near.getsockopt(*NO_DELAY) == far.getsockopt(*NO_DELAY) == 1
        near.sendall(b"tcp")
        one.sendall(b"unix")
        os.write(writer, b"pipe")
        assert (far.recv(9), other.recv(9), os.read(reader, 9)) == (b"tcp", b"unix", b"pipe")
    os.close(reader)
    os.close(writer)


def test_no_socket_loses_its_patience_to_a_timeout_of_the_process():
    near, far = connected()
    with near, far:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(5)
        try:
            answer_at_once.__wrapped__()
        finally:
            socket.setdefaulttimeout(before)
        assert os.get_blocking(near.fileno())


def flags(batches):
    """Say of each TCP socket of a worker whether it answers at once."""
    for _ in batches:
        answer_at_once.__wrapped__()
        found = []
        for place in list(Path("/dev/fd").iterdir()):
            with suppress(OSError):  # no socket
                one = socket.socket(fileno=int(place.name))
                found += [one.getsockopt(*NO_DELAY)] if one.family in (socket.AF_INET, socket.AF_INET6) else []
                one.detach()
        yield pa.RecordBatch.from_pydict({"flags": [found]}, pa.schema([("flags", pa.list_(pa.int64()))]))


@pytest.mark.spark
def test_the_socket_to_sparks_jvm_is_among_them(spark):
    row = spark.range(1).mapInArrow(flags, "flags array<long>").collect()[0]
    assert set(row["flags"]) == {1}, "Spark speaks TCP with its workers, unless told otherwise"
