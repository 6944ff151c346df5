"""Serving a page on this machine until it is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from darl_opensearch.io.listening import listen

HOST = "127.0.0.1"


def serve_page(app: ASGIApp, port: int, announce: Callable[[str], object]) -> None:
    """Serve on 127.0.0.1 until SIGTERM or Ctrl-C.

    :param app: should have the middleware :class:`darl_opensearch.web.guard.Guard`.
    :param port: 0: any free port.
    :param announce: called with the page's URL, which ends in a slash, once it listens.
    :raises DarlError: if the port is in use.
    """
    with listen(HOST, port, todo="choose another port with --port") as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                app, ws="none", log_config=None, access_log=False, server_header=False, lifespan="off",
                timeout_graceful_shutdown=3,
            )
        )  # fmt: skip

        def stop(*_: int | FrameType | None) -> None:
            server.should_exit = True

        previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # uvicorn would raise the signal again on exit, but an intended stop is not a failure.
            previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            announce(f"http://{HOST}:{listener.getsockname()[1]}/")
            server.run(sockets=[listener])
        finally:
            for number, handler in previous.items():  # later steps can be stopped as usual
                signal.signal(number, handler)
