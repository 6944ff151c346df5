"""An application without a socket."""

from __future__ import annotations

import asyncio
import time
import warnings
from contextlib import contextmanager

from darl_opensearch.server import ServerConfig, Service, create_scorer_app

with warnings.catch_warnings():  # Starlette would rather have a successor of httpx; httpx does
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient


class RecordingLog:
    """Takes the place of the OOD log."""

    def __init__(self):
        self.offered, self.closed = [], False

    def offer(self, request):
        self.offered.append(request)
        return True

    def counters(self):
        return {"offered": len(self.offered), "dropped_queue": 0, "queued": 0}

    def close(self):
        self.closed = True


def call(app, body, on_send, *, gone=None):
    """Send one request to ``/v1/rerank`` as a server does, and see each message of the answer.

    :param on_send: called with each message before the next one is made.
    :param gone: an ``asyncio.Event``, set when the caller closes the connection.
    """
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/rerank", "raw_path": b"/v1/rerank", "query_string": b"", "root_path": "", "client": ("test", 1),
        "server": ("test", 80), "headers": [(b"content-length", str(len(body)).encode())],
    }  # fmt: skip
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if parts:
            return parts.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        on_send(message)

    return app(scope, receive, send)


@contextmanager
def running(bundle, *, ready=True, **settings):
    """A client of an application that serves a bundle."""
    service = Service(ServerConfig(**({"threads": 2} | settings)), bundle, RecordingLog())
    with TestClient(create_scorer_app(service)) as client:
        client.service, client.log = service, service._ood_log
        while ready and not service.ready:
            if service.failure:
                raise service.failure
            time.sleep(0.005)
        yield client
