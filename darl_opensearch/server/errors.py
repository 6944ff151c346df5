"""Error responses."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from darl_opensearch.errors import DarlError
from darl_opensearch.server.fixed_json import dumps

TYPES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    422: "invalid_request",
    429: "rate_limited",
    500: "internal",
    503: "unavailable",
}


class ApiError(DarlError):
    """An error response.

    :param retry_after: seconds to wait before a retry.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        where: str | None = None,
        todo: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(what, where=where, todo=todo)
        self.status = status
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, retry_after))


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Make an error response; the message says what happened and what to do."""
    body = {"error": {"status": status, "type": TYPES.get(status, "error"), "message": message}}
    return Response(dumps(body), status, dict(headers or {}), "application/json")
