"""Servers to ask: quiet handlers, a proxy that wants a password, a stub of a cluster."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve a handler class; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up is no news
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    # A shutdown waits for the next poll, half a second by default.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, data: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def guarded_proxy(target: str, user: str, password: str) -> type[Quiet]:
    """A reverse proxy with basic authentication: what stands before a secured cluster."""
    host, wanted = urlsplit(target).netloc, base64.b64encode(f"{user}:{password}".encode()).decode()

    class Proxy(Quiet):
        def refuse(self, body: bytes) -> bool:
            """Answer what may not pass; whether it did."""
            if refused := self.headers.get("Authorization") != f"Basic {wanted}":
                self.answer(401, b"Unauthorized", "text/plain")
            return refused

        def pass_on(self) -> None:
            body = self.body()
            if self.refuse(body):
                return
            connection = http.client.HTTPConnection(host, timeout=60)
            kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
            connection.request(self.command, self.path, body, kept)
            response = connection.getresponse()
            self.answer(response.status, response.read(), response.headers.get("Content-Type", "text/plain"))
            connection.close()

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = pass_on

    return Proxy


def stub_cluster(answers: dict[tuple[str, str], Any], seen: list[tuple[str, str]] | None = None) -> type[Quiet]:
    """A server that answers like a cluster: ``(method, path without query)`` to JSON, a status with it or bytes."""

    class Stub(Quiet):
        def respond(self) -> None:
            self.body()
            place = self.path.partition("?")[0]
            if seen is not None:
                seen.append((self.command, place))
            found = answers.get((self.command, place), (404, {"error": {"reason": f"no {place}", "type": "x"}}))
            if callable(found):
                found = found()
            status, data = found if isinstance(found, tuple) else (200, found)
            if isinstance(data, bytes):
                self.answer(status, data, "text/html")
            else:
                self.answer(status, json.dumps(data).encode())

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = respond

    return Stub
