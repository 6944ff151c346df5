"""Middleware: trailing slashes, request ids and metrics, error responses, API keys."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darl_opensearch.server.errors import ApiError, error_response
from darl_opensearch.server.keys import KeyRing
from darl_opensearch.server.limits import RateLimit
from darl_opensearch.server.metrics import Metrics

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/ready"})  # probes send no key
PAGES = "/ui"  # below it a cookie takes the place of the header
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class TrailingSlash:
    """Serves a path with a trailing slash like the one without: some clients add it to every URL."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http":
            scope["path"] = scope["path"].rstrip("/") or "/"
        await self._app(scope, receive, send)


class Observe:
    """Gives each request an id, echoes it, and records metrics.

    :param paths: paths counted by name; all others count as ``other``.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header = Headers(scope=scope).get("x-request-id", "")
        request_id = header if _REQUEST_ID.fullmatch(header) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        scope["state"]["arrived"] = started = time.monotonic()
        status = 500

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
                route = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.observe_request(route, status, time.monotonic() - started)
            await send(message)

        await self._app(scope, receive, observe)
        log.debug("%s %s %d", scope["method"], scope["path"], status)


class Errors:
    """Turns every exception into an error response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response_started = False

        async def watch(message: Message) -> None:
            nonlocal response_started
            response_started = response_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ApiError as err:
            response = error_response(err.status, str(err), err.headers)
        except Exception:  # logged in full, answered in one line
            log.exception("request %s failed", scope["state"]["request_id"])
            response = error_response(500, "The request could not be scored. The server's log says why.")
        else:
            return
        if not response_started:
            await response(scope, receive, send)


class Keys:
    """Admits callers that send one of the keys.

    :param keys: without any, all callers are admitted.
    :param limited: paths that count towards the rate limit.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, rate_limit: RateLimit, limited: Collection[str]) -> None:
        self._app, self._keys, self._rate_limit, self._limited = app, keys, rate_limit, frozenset(limited)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path not in OPEN_PATHS and path != PAGES and not path.startswith(f"{PAGES}/"):
            caller = self._caller(scope)
            if scope["path"] in self._limited:
                self._rate_limit.take(caller)
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> str:
        if not self._keys:
            return str((scope.get("client") or ("unknown",))[0])
        header = Headers(scope=scope).get("authorization", "")
        scheme, _, token = header.partition(" ")
        found = self._keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise ApiError(
                401,
                "the API key is wrong" if header else "no API key was sent",
                todo="send 'Authorization: Bearer KEY' with a key of this server",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return f"key {found}"
