"""The monitor's page under ``/ui``, behind a form that takes one of the server's API keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from darl_opensearch.errors import DarlError
from darl_opensearch.monitor.figures import Filters
from darl_opensearch.monitor.nearest import Nearest
from darl_opensearch.monitor.web import Traffic, parse_filters, refusal_page, respond, show
from darl_opensearch.server.errors import ApiError
from darl_opensearch.server.limits import RateLimit, read_body
from darl_opensearch.server.sessions import SESSION_SECONDS, Sessions
from darl_opensearch.web.guard import HEADERS, LOOPBACK, host_name
from darl_opensearch.web.markup import escaped
from darl_opensearch.web.page import page

if TYPE_CHECKING:
    from darl_opensearch.server.service import Service

PATH = "/ui"
SESSION, NONCE = "darl_session", "darl_form"
TRIES_PER_MINUTE = 10  # by address
ALL_TRIES_PER_MINUTE = 100  # by all, as behind a proxy all have one address
_MOST_BYTES = 4096
_TITLE = "Sign in"


class Ui:
    """The routes under ``/ui``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keys = service.config.keys()
        self._sessions = Sessions(self._keys)
        self._tries, self._all_tries = RateLimit(TRIES_PER_MINUTE), RateLimit(ALL_TRIES_PER_MINUTE)
        self._one = asyncio.Lock()  # at a time: pages must not keep searches waiting
        card = service.bundle.card
        self._traffic = (
            None if service.spool is None
            else Traffic(service.spool, f"the log of {card.name}", grades=card.scale.names,
                         nearest=Nearest.of(service.bundle))
        )  # fmt: skip

    def routes(self) -> list[Route]:
        """List the routes."""
        return [
            Route(PATH, self.monitor, methods=["GET"]),
            Route(f"{PATH}/figures.json", self.figures, methods=["GET"]),
            Route(f"{PATH}/sign-in", self.form, methods=["GET"]),
            Route(f"{PATH}/sign-in", self.sign_in, methods=["POST"]),
            Route(f"{PATH}/sign-out", self.sign_out, methods=["POST"]),
        ]

    async def monitor(self, request: Request) -> Response:
        """Show the page, or lead to the form."""
        if refused := self._refuse(request):
            return refused
        if self._traffic is None:
            text = "<p>This server keeps no OOD log (<code>--no-ood-log</code>).</p>"
            return _guarded(respond(page("Traffic monitor", ["<h1>Traffic monitor</h1>", text])))
        top = []
        if self._keys:
            nonce = request.cookies.get(NONCE, "")
            top = [_form("sign-out", self._sessions.form_token(nonce), "", "<button>Sign out</button>")]
        try:
            async with self._one:
                return _guarded(await show(self._traffic, parse_filters(request.query_params, Filters()), top))
        except DarlError as err:
            return _guarded(await refusal_page(request, err))

    async def figures(self, request: Request) -> Response:
        """Answer with the figures of the page."""
        if refused := self._refuse(request):
            return refused
        if self._traffic is None:
            raise ApiError(404, "this server keeps no OOD log", todo="omit --no-ood-log")
        try:
            filters = parse_filters(request.query_params, Filters())
        except DarlError as err:
            raise ApiError(422, err.what, where=err.where, todo=err.todo) from err
        async with self._one:
            found = await run_in_threadpool(self._traffic.read, filters)
        return _guarded(JSONResponse(found.to_json()))

    async def form(self, request: Request) -> Response:
        """Show the form."""
        if not self._keys:
            return _guarded(RedirectResponse(PATH, 303))
        return self._sign_in_page(request)

    async def sign_in(self, request: Request) -> Response:
        """Open a session for a key, from a form of this server."""
        if not self._keys:
            return _guarded(RedirectResponse(PATH, 303))
        try:
            self._tries.take(str(request.client.host if request.client else "unknown"))
            self._all_tries.take("all")
        except ApiError as err:
            wait = err.headers["Retry-After"]
            return self._sign_in_page(request, f"Too many tries. Wait {wait} s.", 429, {"Retry-After": wait})
        fields = await self._fields(request)
        if fields is None:
            return self._sign_in_page(request, "The form has expired. Send it again.", 403)
        cookie = self._sessions.open(fields.get("key", "").strip())
        if cookie is None:
            return self._sign_in_page(request, "The key is wrong.", 401)
        answer = RedirectResponse(PATH, 303)
        self._set_cookie(request, answer, SESSION, cookie)
        return _guarded(answer)

    async def sign_out(self, request: Request) -> Response:
        """Forget the session in this browser."""
        if await self._fields(request) is None:
            raise ApiError(403, "the form is not this server's, or has expired", todo="reload the page")
        answer = RedirectResponse(f"{PATH}/sign-in", 303)
        answer.delete_cookie(SESSION, path=PATH, httponly=True, samesite="strict")
        return _guarded(answer)

    def _refuse(self, request: Request) -> Response | None:
        """Refuse whoever has no session; without keys, whoever is elsewhere, or came by a name that was rebound."""
        if self._keys:
            if self._sessions.is_open(request.cookies.get(SESSION, "")):
                return None
            return _guarded(RedirectResponse(f"{PATH}/sign-in", 303))
        if host_name(request.headers.get("host", "")) not in LOOPBACK:
            raise ApiError(403, "without API keys the page is for this machine only", todo="set --api-key-file")
        return None

    async def _fields(self, request: Request) -> dict[str, str] | None:
        """Read a form's fields; None if it is not this server's, of this browser, and fresh."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return None
        body = await read_body(request, most=_MOST_BYTES, seconds=self._service.config.body_timeout)
        fields = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
        return fields if self._sessions.is_form(fields.get("token", ""), request.cookies.get(NONCE, "")) else None

    def _sign_in_page(
        self, request: Request, trouble: str = "", status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        nonce = request.cookies.get(NONCE) or self._sessions.nonce()
        fields = (
            '<p><label>API key<br><input type="password" name="key" autocomplete="current-password" required autofocus>'
            "</label></p><p><button>Sign in</button></p>"
        )
        told = f'<p class="bad" role="alert">{escaped(trouble)}</p>' if trouble else ""
        name = escaped(self._service.bundle.card.name)
        body = [f"<h1>{_TITLE}</h1>", f"<p>Traffic monitor of {name}, with an API key of this server.</p>", told,
                _form("sign-in", self._sessions.form_token(nonce), "sign-in", fields)]  # fmt: skip
        answer = respond(page(_TITLE, body, forms=True), status)
        answer.headers.update(headers or {})
        self._set_cookie(request, answer, NONCE, nonce)
        return _guarded(answer)

    def _set_cookie(self, request: Request, answer: Response, name: str, value: str) -> None:
        answer.set_cookie(
            name, value, max_age=SESSION_SECONDS, path=PATH, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip


def _form(action: str, token: str, label: str, fields: str) -> str:
    named = f' aria-label="{label}"' if label else ""
    return (
        f'<form method="post" action="{PATH}/{action}"{named}>'
        f'<input type="hidden" name="token" value="{escaped(token)}">{fields}</form>'
    )


def _guarded(answer: Response) -> Response:
    answer.headers.update(HEADERS)
    return answer
