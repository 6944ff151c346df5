"""What a page asks the server that it came from: JSON objects, answered in a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from darl_opensearch.errors import InputError


def answer_json(handle: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint from a function on JSON objects, which may wait: for the disk, a model or a cluster.

    The endpoint raises InputError where the body is not a JSON object.
    """

    async def endpoint(request: Request) -> Response:
        try:
            body = await request.json()
        except (ValueError, RecursionError) as err:
            raise InputError("the body is not JSON") from err
        except ClientDisconnect as err:  # the tab was closed
            raise InputError("the body ended early") from err
        if not isinstance(body, dict):
            raise InputError("the body is not a JSON object")
        return JSONResponse(await run_in_threadpool(handle, body))

    return endpoint


def error_answer(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Make the exception handler that answers with the error's one line and this status."""

    async def answer(request: Request, err: Exception) -> Response:
        return JSONResponse({"error": str(err)}, status)

    return answer
