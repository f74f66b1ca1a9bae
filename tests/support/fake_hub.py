"""A small Hugging Face Hub on this machine, as far as an upload needs it: it keeps what is committed to it."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_this_test"


class FakeHub:
    """The Hub at `url`. files: content by path, of the only repository. created: bodies of requests to create one.

    commits: their messages. status: what requests are refused with; 0: those with a wrong token, by 401.
    """

    def __init__(self, url: str = "") -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.commits: list[str] = []
        self.status = 0

    def answer(self, path: str, body: bytes, token: str) -> tuple[int, dict[str, Any]]:
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if self.status or token != f"Bearer {TOKEN}":
            return self.status or 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            asked = self.created[-1]
            return 200, {"url": f"{self.url}/{asked['organization']}/{asked['name']}"}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            return 200, {"files": modes}
        if "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines()])
            return 200, {"commitUrl": f"{self.url}/me/ticket/commit/1", "commitOid": "1" * 40, "success": True}
        if path.startswith("/api/models/"):
            return 200, {"id": "me/ticket", "sha": "0" * 40, "siblings": [{"rfilename": name} for name in self.files]}
        return 404, {"error": f"nothing at {path}"}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "header":
                self.commits.append(line["value"]["summary"])
            else:
                assert line["key"] == "file", line
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run a Hub while the block runs."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = hub.answer(self.path.partition("?")[0], body, self.headers.get("authorization", ""))
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
