"""Middleware that refuses requests from other sites to a page that is served on this machine."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
MOST_BYTES = 64 << 10
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Guard:
    """Lets only this machine's own page in.

    DNS rebinding is detected by the Host header, whatever the port, since a tunnel may change it; a form or script of
    another page by its Origin, and by requiring JSON, which a form cannot send. An answer without a
    Content-Security-Policy of its own gets one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Content-Security-Policy", _POLICY)
            await send(message)

        if problem := refusal(scope["method"], Headers(scope=scope)):
            status, text = problem
            await JSONResponse({"error": text}, status)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def refusal(method: str, headers: Headers) -> tuple[int, str] | None:
    """Return status and message of a refusal; None for an accepted request."""
    host = headers.get("host", "")
    if len(headers.getlist("host")) != 1 or host_name(host) not in LOOPBACK:
        return 421, "This page is served on 127.0.0.1 and localhost only."
    if method in ("GET", "HEAD"):
        return None
    if headers.get("origin") != f"http://{host}" or headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return 403, "Only this page may write answers."
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, "Send JSON."
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()) or int(length) > MOST_BYTES:
        return 413, f"Send at most {MOST_BYTES} bytes with a Content-Length."
    return None


def host_name(host: str) -> str:
    """Return the lower-case host of a Host header.

    :param host: ``name:port``, ``name`` or ``[address]:port``.
    """
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isascii() and port.isdigit() else host).lower()
