"""Listening on an address of this machine."""

from __future__ import annotations

import os
import socket

from darl_opensearch.errors import DarlError, UsageError


def listen(host: str, port: int, *, todo: str) -> socket.socket:
    """Listen for connections whose answers are sent at once.

    asyncio switches Nagle's algorithm off only on sockets made for TCP by number, which ``socket.create_server`` does
    not do. Left on, the second packet of an answer waits for the client's delayed acknowledgement: 40 ms on Linux.

    :param host: an address or a name; ``::`` is every address, IPv6 and IPv4.
    :param port: 0: any free port.
    :param todo: what to do where another program listens there.
    :raises UsageError: if the address does not exist.
    :raises DarlError: if it cannot be listened on.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as err:
        raise UsageError("the address does not exist", where=where, todo="correct --host") from err
    # Of a name that has both, such as localhost, IPv4: who finds nobody at its IPv6 address tries the other.
    family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    # "::" means every address; Python would leave out those of IPv4.
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(address, family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as err:
        reason = os.strerror(err.errno) if err.errno else str(err)
        raise DarlError(f"cannot listen there ({reason})", where=where, todo=todo) from err
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    return listener
