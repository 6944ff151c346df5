"""Listening on an address of this machine."""

from __future__ import annotations

import os
import socket

from darl_opensearch.errors import DarlError, UsageError


def listen(host: str, port: int, *, todo: str) -> socket.socket:
    """Listen for connections whose answers are sent at once.

    asyncio switches Nagle's algorithm off only on sockets made for TCP by number, which ``socket.create_server`` does
    not do. Left on, the second packet of an answer waits for the client's delayed acknowledgement: 40 ms on Linux.

    :param port: 0: any free port.
    :param todo: what to do where another program listens there.
    :raises UsageError: if the address does not exist.
    :raises DarlError: if it cannot be listened on.
    """
    where = f"{host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as err:
        raise UsageError("the address does not exist", where=where, todo="correct --host") from err
    try:
        listener = socket.create_server(address, family=family, backlog=1024)
    except OSError as err:
        reason = os.strerror(err.errno) if err.errno else str(err)
        raise DarlError(f"cannot listen there ({reason})", where=where, todo=todo) from err
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    return listener
