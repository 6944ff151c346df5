"""Serving the labelling page on this machine until it is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from darl_opensearch.io.listening import listen
from trainer.judging.web.page import Page, create_judging_app

HOST = "127.0.0.1"


def serve_page(page: Page, port: int, announce: Callable[[str], object]) -> None:
    """Serve until SIGTERM or Ctrl-C; every answer is on disk before the page confirms it.

    :param page: pairs, grades and answers.
    :param port: on 127.0.0.1; 0: any free port.
    :param announce: called with the page's URL once it listens.
    :raises DarlError: if the port is in use.
    """
    with listen(HOST, port, todo="choose another port with --port") as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                create_judging_app(page), ws="none", log_config=None, access_log=False, server_header=False,
                lifespan="off", timeout_graceful_shutdown=3,
            )
        )  # fmt: skip

        def stop(*_: int | FrameType | None) -> None:
            server.should_exit = True

        previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # uvicorn would raise the signal again on exit, but an intended stop is not a failure.
            previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            announce(f"http://{HOST}:{listener.getsockname()[1]}/?rater={page.rater}")
            server.run(sockets=[listener])
        finally:
            for number, handler in previous.items():  # later steps can be stopped as usual
                signal.signal(number, handler)
