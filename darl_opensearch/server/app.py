"""The routes of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from darl_opensearch.server.errors import error_response
from darl_opensearch.server.fixed_json import dumps
from darl_opensearch.server.limits import RateLimit, read_body, wait_until_gone
from darl_opensearch.server.middleware import Errors, Keys, Observe, TrailingSlash
from darl_opensearch.server.openapi import describe_api
from darl_opensearch.server.service import Service
from darl_opensearch.server.ui import Ui

RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")


def create_scorer_app(service: Service) -> Starlette:
    """Make the application; its lifespan loads the model in the background, and closes the service at the end."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(service.load())
        try:
            yield
        finally:
            await loading
            await asyncio.to_thread(service.close)

    async def rerank(request: Request) -> Response:
        config, state = service.config, request.state
        service.scorer()  # 503 before the body is read
        with service.admission.enter():
            body = await read_body(request, most=config.max_body_bytes, seconds=config.body_timeout)
            response, ranked = await service.rerank(
                body, request_id=state.request_id, arrived=state.arrived, gone=partial(wait_until_gone, request)
            )
        return _json(response, background=BackgroundTask(service.log, ranked))

    async def health(_: Request) -> Response:
        return _json(dumps({"status": "ok"}))

    async def ready(_: Request) -> Response:
        service.scorer()
        card = service.bundle.card
        return _json(dumps({"status": "ready", "model": card.name, "version": card.version}))

    async def info(_: Request) -> Response:
        return _json(dumps(service.info()))

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(_: Request) -> Response:
        return _json(dumps(describe_api(service.config, RERANK_PATHS)))

    routes = [
        *(Route(path, rerank, methods=["POST"]) for path in RERANK_PATHS),
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
        Route("/info", info, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        *Ui(service).routes(),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(TrailingSlash),
            Middleware(Observe, metrics=service.metrics, paths=[route.path for route in routes]),
            Middleware(Errors),
            Middleware(
                Keys, keys=service.config.keys(), rate_limit=RateLimit(service.config.rate_limit), limited=RERANK_PATHS
            ),
        ],
        exception_handlers={HTTPException: _render_http_error},
    )
    app.router.redirect_slashes = False  # a redirect would follow the caller's Host header
    return app


def _json(body: str, background: BackgroundTask | None = None) -> Response:
    return Response(body, media_type="application/json", background=background)


async def _render_http_error(request: Request, err: Exception) -> Response:
    if not isinstance(err, HTTPException):
        raise err
    path = request.url.path
    messages = {
        404: f"There is no route {path}. GET /openapi.json lists the routes.",
        405: f"{path} does not allow {request.method}. GET /openapi.json lists what it allows.",
    }
    return error_response(err.status_code, messages.get(err.status_code, f"{err.detail}."), err.headers)
