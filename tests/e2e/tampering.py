"""A registry that serves one OCI layout, wrongly where it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

JOIN_TIMEOUT_S = 10.0


class TamperingRegistry:
    """`replaced` answers other bytes for a digest; `cut` breaks the connection after so many of them."""

    def __init__(self, layout: Path) -> None:
        self.blobs = layout / "blobs" / "sha256"
        entry = json.loads((layout / "index.json").read_bytes())["manifests"][0]
        self.manifest_digest: str = entry["digest"]
        self.manifest_type: str = entry["mediaType"]
        self.layers: list[str] = [
            layer["digest"] for layer in json.loads(self.blob(entry["digest"]))["layers"]
        ]
        self.replaced: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.requests = 0
        self.address = ""

    def blob(self, digest: str) -> bytes:
        return (self.blobs / digest.removeprefix("sha256:")).read_bytes()

    def reference(self, name: str = "bad/image:1") -> str:
        return f"{self.address}/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        if handler.path == "/v2/":
            return self._send(handler, b"{}", "application/json", "")
        _, kind, digest = handler.path.rsplit("/", 2)
        if kind == "manifests":
            digest = self.manifest_digest
        data = self.replaced.get(digest, self.blob(digest))
        media_type = self.manifest_type if kind == "manifests" else "application/octet-stream"
        return self._send(handler, data, media_type, digest)

    def _send(self, handler: BaseHTTPRequestHandler, data: bytes, media_type: str, digest: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", media_type)
        handler.send_header("Content-Length", str(len(data)))
        if digest:
            handler.send_header("Docker-Content-Digest", digest)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data[: self.cut.get(digest, len(data))])
        handler.close_connection = True


@contextmanager
def tampering(layout: Path) -> Iterator[TamperingRegistry]:
    """Serves on loopback until the context ends."""
    registry = TamperingRegistry(layout)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.answer(self)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """The test's output is not the place for it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join(JOIN_TIMEOUT_S)
