"""Helpers for tests against a cluster: a counting scorer, a recording client, a proxy, a stub, cleaning up."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from opensearchpy import Urllib3HttpConnection

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import Cluster, models, pipelines
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.errors import DarlError
from darl_opensearch.resources import plugin_config
from darl_opensearch.server.app import create_scorer_app
from darl_opensearch.server.config import ServerConfig
from darl_opensearch.server.service import Service


class RunningScorer:
    """``darl serve``'s own application on a real port; remembers what it was asked."""

    def __init__(self, bundle: Bundle, *, key: str | None = None, key_file: Path | None = None, port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        app = create_scorer_app(Service(ServerConfig(api_key=key, api_key_file=key_file, no_ood_log=True), bundle))

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


def clean_up(cluster: Cluster, bundle: Bundle, *, pipeline_names: set[str], indexes: set[str]) -> None:
    """Delete everything a test registered, and nothing else."""
    for name in pipeline_names:
        pipelines.remove_pipelines(cluster, pipelines.PipelineOptions(name=name))
    for name in (models.local_name(bundle.card), models.connector_name(bundle.card)):
        found = models.find_models(cluster, name)
        for model in found:
            models.remove_model(cluster, model, with_group=model is found[-1])
    for index in indexes:
        if cluster.read("GET", join_path(index), absent={}):
            cluster.send("DELETE", join_path(index))


def eventually(true: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return true()


def at_once(*commands: Callable[[], Any]) -> list[Any]:
    """Run commands at the same time; gives each one's result or error."""
    outcomes: list[Any] = [None] * len(commands)
    together = threading.Barrier(len(commands))

    def run(number: int) -> None:
        together.wait()
        try:
            outcomes[number] = commands[number]()
        except DarlError as err:
            outcomes[number] = err

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(commands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


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
    """The file of ``plugin_config`` that a body was rendered from; of NAME-hybrid, NAME's."""
    hybrid = json.loads((plugin_config() / "pipeline_hybrid.json").read_text(encoding="utf-8"))
    if isinstance(body, dict) and hybrid.items() <= body.items() and body.keys() != hybrid.keys():
        body = {key: value for key, value in body.items() if key not in hybrid}
    for file in sorted(plugin_config().glob("*.json")):
        if matches(json.loads(file.read_text(encoding="utf-8")), body):
            return file.name
    return None
