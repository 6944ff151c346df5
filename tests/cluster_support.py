"""Helpers for tests against a cluster: a counting scorer, a recording client, a proxy, a stub, cleaning up."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from opensearchpy import Urllib3HttpConnection

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import Cluster, models, pipelines
from darl_opensearch.cluster.calls import path
from darl_opensearch.resources import plugin_config
from darl_opensearch.server.app import create_app
from darl_opensearch.server.config import ServerConfig
from darl_opensearch.server.service import Service


class RunningScorer:
    """``darl serve``'s own application on a real port; remembers what it was asked."""

    def __init__(self, bundle: Bundle, *, key: str | None = None, port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        app = create_app(Service(ServerConfig(api_key=key, no_ood_log=True), bundle))

        async def counting(scope: Any, receive: Any, send: Any) -> None:
            body = b""

            async def heard() -> Any:
                nonlocal body
                message = await receive()
                if message["type"] == "http.request":
                    body += message.get("body", b"")
                    if not message.get("more_body") and scope.get("method") == "POST":
                        self.requests.append(json.loads(body))
                return message

            await app(scope, heard if scope["type"] == "http" else receive, send)

        config = uvicorn.Config(counting, host="127.0.0.1", port=port, log_config=None, ws="none", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._ready():
            assert time.monotonic() < deadline, "the scorer did not come up"
            time.sleep(0.02)

    def _ready(self) -> bool:
        if not self._server.started:
            return False
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        finally:
            connection.close()

    @property
    def port(self) -> int:
        return self._server.servers[0].sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/rerank"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    def __enter__(self) -> RunningScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def recording() -> tuple[list[tuple[str, str, Any]], type[Urllib3HttpConnection]]:
    """A connection class that writes down every request that leaves this process."""
    seen: list[tuple[str, str, Any]] = []

    class Recording(Urllib3HttpConnection):
        def perform_request(self, method, url, params=None, body=None, timeout=None, ignore=(), headers=None):
            seen.append((method, url, body))
            return super().perform_request(method, url, params, body, timeout, ignore, headers)

    return seen, Recording


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve a handler class; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up is no news
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
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
        def pass_on(self) -> None:
            body = self.body()
            if self.headers.get("Authorization") != f"Basic {wanted}":
                self.answer(401, b"Unauthorized", "text/plain")
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


def clean_up(cluster: Cluster, bundle: Bundle, *, pipeline_names: set[str], indexes: set[str]) -> None:
    """Delete everything a test registered, and nothing else."""
    for name in pipeline_names:
        pipelines.remove(cluster, pipelines.PipelineOptions(name))
    for name in (models.local_name(bundle.card), models.connector_name(bundle.card)):
        found = models.find_models(cluster, name)
        for model in found:
            models.remove(cluster, model, with_group=model is found[-1])
    for index in indexes:
        if cluster.read("GET", path(index), absent={}):
            cluster.send("DELETE", path(index))


def eventually(true: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return true()


def matches(template: Any, body: Any) -> bool:
    """Whether a body is a file of ``plugin_config`` with its placeholders filled."""
    if isinstance(template, str):
        if _WHOLE.fullmatch(template):
            return True
        pattern = "(.*)".join(re.escape(part) for part in _PLACEHOLDER.split(template))
        return isinstance(body, str) and re.fullmatch(pattern, body, re.DOTALL) is not None
    if isinstance(template, dict):
        if not isinstance(body, dict) or body.keys() - template.keys():
            return False
        return all(
            matches(value, body[key]) if key in body else bool(isinstance(value, str) and _WHOLE.fullmatch(value))
            for key, value in template.items()
        )
    if isinstance(template, list):
        return isinstance(body, list) and len(template) == len(body) and all(map(matches, template, body))
    return type(template) is type(body) and template == body


_PLACEHOLDER = re.compile(r"\{\{[a-z][a-z0-9_]*\}\}")
_WHOLE = _PLACEHOLDER


def file_of(body: Any) -> str | None:
    """The file of ``plugin_config`` that a body was rendered from."""
    for file in sorted(plugin_config().glob("*.json")):
        if matches(json.loads(file.read_text(encoding="utf-8")), body):
            return file.name
    return None


def run_darl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with none of this one's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DARL_", "OPENSEARCH_"))}
    root = str(Path(__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "darl_opensearch", *arguments],
        capture_output=True, text=True, check=False, timeout=120, env=kept | {"PYTHONPATH": root} | environment,
    )  # fmt: skip
