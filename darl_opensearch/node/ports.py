"""Local ports: free, taken, answering."""

from __future__ import annotations

import json
import random
import socket
from typing import Any

from darl_opensearch.errors import DarlError
from darl_opensearch.io.http import HttpClient, HttpError
from darl_opensearch.node.process import holder_of

HOST = "127.0.0.1"
# Below what systems hand out for outgoing connections, so that none takes the port before the node does.
RANGE = range(20000, 30000)


def is_free(port: int) -> bool:
    """Tell whether a node could listen on a port.

    :return: False when something does already, or this user may not.
    """
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as Java does: a closed port's echo is no hindrance
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(*, first: int | None = None) -> int:
    """Choose a port that nothing listens on.

    :raises DarlError: when none was found.
    """
    tries = random.sample(RANGE, 100)
    if first is not None and first <= 65535:
        tries.insert(0, first)
    for port in tries:
        if is_free(port):
            return port
    raise DarlError("no free port found", where=f"{HOST}:{RANGE.start}-{RANGE.stop}")


def refuse_taken(port: int) -> None:
    """Say who has a port.

    :raises DarlError: when it is taken.
    """
    if is_free(port):
        return
    answer = get_json(port, "/")
    if isinstance(answer, dict) and "cluster_name" in answer:
        who = f"an OpenSearch node of cluster {answer['cluster_name']!r}, not started from this cache"
    else:
        who = holder_of(port) or "another program"
    raise DarlError(
        f"the port is in use by {who}",
        where=f"{HOST}:{port}",
        todo="stop it, or choose another --port",
    )


def get_json(port: int, path: str, timeout_s: float = 3.0) -> Any:
    """Ask a node, past any proxy.

    :return: the answer, None when there is none or it is not JSON or its status is not 200.
    """
    try:
        with HttpClient(timeout_s, proxies=False) as client:
            answer = client.send("GET", f"http://{HOST}:{port}{path}")
        return json.loads(answer.body) if answer.status == 200 else None
    except (HttpError, ValueError):
        return None
