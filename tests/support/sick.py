"""Storages that fail: a folder whose operations raise errors of the system, and an S3 that answers with one error."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pyarrow import fs

from lth_trainable.store.store import Store

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


class _SickFiles:
    """A local file system that asks `trouble(operation)` before each operation for the number of an error, or 0."""

    def __init__(self, trouble: Callable[[str], int]) -> None:
        self._real, self._trouble = fs.LocalFileSystem(), trouble

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        def operation(*given: Any, **more: Any) -> Any:
            number = self._trouble(name)
            if number:
                raise OSError(number, os.strerror(number))
            return real(*given, **more)

        return operation


class SickStore(Store):
    """A store in a local folder. trouble: the number of the error that an operation of the file system raises, or 0."""

    def __init__(self, root: Path, trouble: Callable[[str], int]) -> None:
        super().__init__(root)
        self.fs = _SickFiles(trouble)

    @property
    def is_local(self) -> bool:
        return True


@contextlib.contextmanager
def refusing_s3(status: int, code: str) -> Iterator[str]:
    """Address of a server that answers each request of S3's protocol with this error."""

    class Refusal(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            body = f"<Error><Code>{code}</Code><Message>no</Message><RequestId>1</RequestId></Error>".encode()
            content = b"" if self.command == "HEAD" else body
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
