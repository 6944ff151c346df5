"""The try-out page, and the application that serves it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from darl_opensearch.errors import ClusterError, DarlError, InputError
from darl_opensearch.tryout.session import TryOut
from darl_opensearch.web.api import answer_json, error_answer
from darl_opensearch.web.guard import Guard
from darl_opensearch.web.markup import escaped
from darl_opensearch.web.page import asset, headers, page

_BODY = """
<h1>{title}</h1>
<p class="muted">{about}</p>
<form id="form" role="search">
<label for="query">Query</label>
<input id="query" type="search" maxlength="10000" autocomplete="off" autofocus>
<button>Search</button>
</form>
<p id="status" role="status"></p>
<div id="trouble" role="alert"></div>
<div id="results" hidden>
<div id="stages"></div>
<div id="split">
<div id="orders"></div>
<section id="details" aria-labelledby="details-title"></section>
</div>
</div>
<noscript><p class="bad">This page needs JavaScript. Without it, use <code>darl search</code>.</p></noscript>
"""


def render_tryout(tryout: TryOut) -> str:
    """Render the page."""
    about = tryout.about()
    names = " against ".join(version["label"] for version in about["versions"])
    facts = [f"First stage: {about['first_stage']}", f"up to {about['window']} candidates are reranked"]
    facts += [
        f"{version['label']}: {version['backbone']}, exported {version['created']}" for version in about["versions"]
    ]
    body = _BODY.format(title=escaped(f"Try out {names}"), about=escaped("; ".join(facts) + "."))
    return page(
        f"Try out {names}", [body], style=asset("tryout.css"), scripts=[asset("tryout.js")], data=about, fetches=True
    )


def create_tryout_app(tryout: TryOut) -> Starlette:
    """Make the ASGI application."""
    html = render_tryout(tryout)

    def front(request: Request) -> Response:
        return HTMLResponse(html, headers=headers(html))

    routes = {"search": tryout.search, "why": tryout.why, "judge": tryout.judge}
    return Starlette(
        routes=[
            Route("/", front),
            *(Route(f"/api/{name}", answer_json(handle), methods=["POST"]) for name, handle in routes.items()),
        ],
        middleware=[Middleware(Guard)],
        exception_handlers={
            InputError: error_answer(400), ClusterError: error_answer(502), DarlError: error_answer(500),
        },
    )  # fmt: skip
