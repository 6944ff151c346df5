"""Local ports: free, taken, answering."""

from __future__ import annotations

import json
import random
import socket
from typing import Any

from darl_opensearch.errors import DarlError
from darl_opensearch.io.http import HttpClient, HttpError
from darl_opensearch.node.process import find_holder

HOST = "127.0.0.1"
# Below the ports of outgoing connections, so that none of those takes the port before the node does.
RANGE = range(20000, 30000)


def is_free(port: int) -> bool:
    """Whether a node could listen on a port: it is not in use, and this user may bind it."""
    with socket.socket() as probe:
        # As Java does, so that a connection in TIME_WAIT does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(*, first: int | None = None) -> int:
    """Choose a free port.

    :param first: the port to try first.
    :raises DarlError: if none was found.
    """
    tries = random.sample(RANGE, 100)
    if first is not None and first <= 65535:
        tries.insert(0, first)
    for port in tries:
        if is_free(port):
            return port
    raise DarlError("no free port found", where=f"{HOST}:{RANGE.start}-{RANGE.stop}")


def refuse_taken(port: int) -> None:
    """Refuse a port that is in use.

    :raises DarlError: naming the program that uses it.
    """
    if is_free(port):
        return
    answer = get_json(port, "/")
    if isinstance(answer, dict) and "cluster_name" in answer:
        who = f"an OpenSearch node of cluster {answer['cluster_name']!r}, not started from this cache"
    else:
        who = find_holder(port) or "another program"
    raise DarlError(f"the port is in use by {who}", where=f"{HOST}:{port}", todo="stop it, or choose another --port")


def get_json(port: int, path: str, timeout_s: float = 3.0) -> Any:
    """Send a GET request to a node, bypassing proxies; None unless the answer is JSON with status 200."""
    try:
        with HttpClient(timeout_s, proxies=False) as client:
            answer = client.send("GET", f"http://{HOST}:{port}{path}")
        return json.loads(answer.body) if answer.status == 200 else None
    except (HttpError, ValueError):
        return None
