"""A proxy before a real server that spoils answers: 503, 403, late, lost, broken, stale ones, a forgotten condition."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["503", "403", "slow", "lost", "broken", "stale", "forgotten", "none"]
_BURST = 3
_SLOW_S = 0.3
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Request:
    """A request as it came; the body of a POST alone is kept, in which S3's bulk delete names its keys."""

    method: str
    path: str
    copied_from: str
    body: bytes


class FaultyProxy:
    """Passes requests on; while `faults` has any, each request takes one of them. `seen` are the requests that came.

    `rates` are the shares of requests that a fault falls on by chance; 503s come in bursts, and a stale answer is that
    to the same listing a while ago.
    """

    def __init__(self, endpoint: str) -> None:
        self.target = urlsplit(endpoint).netloc
        self.faults: list[Fault] = []
        self.seen: list[Request] = []
        self.rates: dict[Fault, float] = {}
        self.rng = random.Random(0)
        self.spoilt = 0
        self.listings: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.endpoint = ""

    def next_fault(self) -> Fault | None:
        if self.faults:
            return self.faults.pop(0)
        for fault, share in self.rates.items():
            if self.rng.random() < (share / _BURST if fault == "503" else share):
                self.spoilt += 1
                self.faults += ["503"] * (_BURST - 1) if fault == "503" else []
                return fault
        return None


@contextmanager
def faulty_proxy(endpoint: str) -> Iterator[FaultyProxy]:
    """Run a proxy on the loopback, at a port of its own."""
    proxy = FaultyProxy(endpoint)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def _pass_on(self) -> None:
        body = self._body()
        kept = body if self.command == "POST" else b""
        self.proxy.seen.append(Request(self.command, self.path, self.headers.get("x-amz-copy-source", ""), kept))
        fault = self.proxy.next_fault()
        if fault in ("503", "403"):
            return self._answer(int(fault), {}, b"")
        if fault == "slow":
            time.sleep(_SLOW_S)
        if fault == "stale" and self.path in self.proxy.listings:
            return self._answer(*self.proxy.listings[self.path])
        target = http.client.HTTPConnection(self.proxy.target, timeout=30)
        sent = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
        target.request(self.command, self.path, body, sent)  # signed as they are, Host included
        answer = target.getresponse()
        data = answer.read()
        target.close()
        if fault == "lost":
            self.close_connection = True
            return None
        if fault == "forgotten" and answer.status == 412:
            return self._answer(200, {}, b"")
        of_connection = _OF_THE_CONNECTION - ({"content-length"} if self.command == "HEAD" else set())
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in of_connection}
        if self.command == "GET" and "list-type=2" in self.path and answer.status == 200:
            self.proxy.listings.setdefault(self.path, (answer.status, headers, data))
        return self._answer(answer.status, headers, data, len(data) // 2 if fault == "broken" else len(data))

    def _body(self) -> bytes:
        """Read the request's body, of which pyarrow does not tell the length before."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        return True

    def _answer(self, status: int, headers: dict[str, str], data: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in headers):  # a HEAD tells that of what it does not send
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])
        self.close_connection = self.close_connection or (sent is not None and sent < len(data))

    def log_message(self, *_: object) -> None:
        pass
