"""A proxy in front of an HTTP server that does to requests and answers what bad networks and busy servers do.

Which fault a request meets depends on the seed, its method and path and how often it was made, not on the order in
which threads make their requests. So a test meets the same faults each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ERROR = "error"  # 500 or 503 instead of the answer; the request is not passed on
RESET = "reset"  # the connection is reset; the request is not passed on
LOST = "lost"  # the request is done, and the connection reset instead of its answer; see NO_UPLOAD
CUT = "cut"  # the second half of the answer's body is missing
FLIPPED = "flipped"  # one bit of the answer's body is wrong
SPOILT = "spoilt"  # one bit of the request's body is wrong
ALL = (ERROR, RESET, LOST, CUT, FLIPPED, SPOILT)
HOP = ("connection", "keep-alive", "transfer-encoding")
SECONDS = 60
UPLOAD = re.compile("uploadId=[^&]*")  # a random name
BUSY = ((500, "InternalError"), (503, "SlowDown"))
NO_UPLOAD = (404, "NoSuchUpload")  # what S3 answers when it is asked again to end an upload that it has ended


class FaultyProxy:
    """Passes requests on to a server, some of them with a fault. address: `host:port` of the proxy.

    rates: how many of all requests meet each fault, as fractions. met: how many have met it so far. While `is_out`,
    every connection is reset.
    """

    def __init__(self, server: str, rates: Mapping[str, float], seed: int) -> None:
        self.server, self.rates, self.seed = server, dict(rates), seed
        self.met: Counter[str] = Counter()
        self.is_out = False
        self.ended: set[str] = set()  # uploads, with a lost answer
        self._made: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.address = f"127.0.0.1:{self._http.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultyProxy]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def fault(self, method: str, path: str) -> tuple[str | None, int]:
        """The fault that this request meets, and a large random number for whatever else it depends on."""
        with self._lock:
            request = f"{method} {UPLOAD.sub('', path)}"
            self._made[request] += 1
            name = f"{self.seed} {request} {self._made[request]}"
            drawn = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")
            share, rest = (drawn % 10**6) / 10**6, drawn // 10**6
            for kind, rate in self.rates.items():
                if share < rate:
                    return kind, rest
                share -= rate
        return None, rest

    def requests(self) -> Counter[str]:
        """How often each method was used so far."""
        with self._lock:
            return Counter(name.split()[0] for name in self._made.elements())

    def note(self, kind: str) -> None:
        with self._lock:
            self.met[kind] += 1


def with_a_bit_flipped(content: bytes, number: int) -> bytes:
    changed = bytearray(content)
    changed[number % len(content)] ^= 1 << (number // len(content) % 8)
    return bytes(changed)


def _handler(proxy: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def _pass_on(self) -> None:
            body = self._body()
            if proxy.is_out:
                self._reset()
                return
            kind, number = proxy.fault(self.command, self.path)
            if kind == SPOILT and not body:
                kind = None
            if self.path in proxy.ended:
                self._refuse(*NO_UPLOAD)
            elif kind == ERROR:
                proxy.note(kind)
                self._refuse(*BUSY[number % 2])
            elif kind == RESET:
                proxy.note(kind)
                self._reset()
            else:
                if kind == SPOILT:
                    proxy.note(kind)
                    body = with_a_bit_flipped(body, number)
                self._answer(body, kind, number)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, body: bytes, kind: str | None, number: int) -> None:
            """Pass the request on, and its answer back, with the fault."""
            connection = http.client.HTTPConnection(proxy.server, timeout=SECONDS)
            kept = {name: value for name, value in self.headers.items() if name.lower() not in (*HOP, "expect")}
            connection.request(self.command, self.path, body, {**kept, "Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if kind == LOST:
                proxy.note(kind)
                if self.command == "POST" and "uploadId=" in self.path:
                    proxy.ended.add(self.path)
                self._reset()
                return
            length = answer.getheader("Content-Length", str(len(content)))
            if kind == FLIPPED and content:
                proxy.note(kind)
                content = with_a_bit_flipped(content, number)
            if kind == CUT and content:
                proxy.note(kind)
                content = content[: len(content) // 2]
                self.close_connection = True
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (*HOP, "content-length", "date", "server"):
                    self.send_header(name, value)
            if answer.status != http.client.NO_CONTENT:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content)

        def _refuse(self, status: int, code: str) -> None:
            content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a fault</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _reset(self) -> None:
            """Close so that the client sees a reset, not an end."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the connection that was reset, or that the client closed
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    return Handler
