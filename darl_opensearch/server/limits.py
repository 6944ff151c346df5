"""Limits on concurrency, rate and size of requests."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from darl_opensearch.server.errors import ApiError

_MOST_CALLERS = 10_000
_DRAIN_SECONDS = 5.0
_MEMORY = 0.95  # weight of a request when the next one is done: some twenty count


class Admission:
    """Bounds the requests in progress and their waiting: requests in a growing queue would all time out.

    Used from the event loop only.

    :param limit: maximum requests, scored or waiting.
    :param max_wait: maximum seconds that a request may have to wait for those before it; 0: any time.
    """

    def __init__(self, limit: int, max_wait: float = 0.0) -> None:
        self.limit, self.max_wait = limit, max_wait
        self.inside = 0
        self._bytes_ahead = 0
        self._since = 0.0  # when a request ended last, or the first one began after an idle time
        self._seconds, self._bytes = 0.0, 0.0  # of the latest requests, older ones count less

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Admit one request.

        :raises ApiError: 503 at the limit.
        """
        if self.inside >= self.limit:
            raise ApiError(
                503,
                f"{self.inside} requests are being scored or waiting",
                todo="try again shortly; add cores or raise --max-queue if this lasts",
                retry_after=1,
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @contextmanager
    def wait_for(self, size: int) -> Iterator[None]:
        """Admit a request whose body has arrived, if the work ahead of it is soon done.

        The work is predicted from the bodies' sizes and from what the latest ones cost, see :meth:`observe`. An idle
        scorer admits every request.

        :param size: of the body in bytes.
        :raises ApiError: 503 if it would wait for longer than ``max_wait``.
        """
        now = time.monotonic()
        if not self._bytes_ahead:
            self._since = now
        work = self._bytes_ahead * self._seconds / self._bytes if self._bytes else 0.0
        wait = work - (now - self._since)
        if self.max_wait and wait > self.max_wait:
            raise ApiError(
                503,
                f"the requests before this one take another {wait:.1f} s",
                todo="try again later; add cores or raise --max-wait-ms if this lasts",
                retry_after=min(60, math.ceil(wait - self.max_wait)),
            )
        self._bytes_ahead += size
        try:
            yield
        finally:
            self._bytes_ahead -= size
            self._since = time.monotonic()

    def observe(self, size: int, seconds: float) -> None:
        """Learn what a request cost.

        :param size: of its body in bytes.
        :param seconds: for which it kept the whole machine busy.
        """
        self._seconds = _MEMORY * self._seconds + seconds
        self._bytes = _MEMORY * self._bytes + size


class RateLimit:
    """A token bucket per caller that holds one minute's requests.

    :param per_minute: requests per minute; 0: no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now: float | None = None) -> None:
        """Count a request.

        :param now: current time in seconds, for tests.
        :raises ApiError: 429 if the caller's bucket is empty.
        """
        if not self._per_minute:
            return
        now = time.monotonic() if now is None else now
        tokens, since = self._buckets.pop(caller, (float(self._per_minute), now))
        rate = self._per_minute / 60
        tokens = min(self._per_minute, tokens + (now - since) * rate)
        self._buckets[caller] = (max(0.0, tokens - 1) if tokens >= 1 else tokens, now)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            wait = (1 - tokens) / rate
            raise ApiError(
                429,
                f"more than {self._per_minute} requests a minute",
                todo=f"wait {int(wait) + 1} s, or raise --rate-limit",
                retry_after=int(wait) + 1,
            )


async def read_body(request: Request, *, most: int, seconds: float) -> bytes:
    """Read a request's body within limits on size and time.

    :param most: maximum bytes.
    :param seconds: maximum time; 0: no limit.
    :raises ApiError: 413 if it is too large, 408 if it takes too long, 400 if it is incomplete or compressed.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(
            400, "the body is compressed", todo="send it uncompressed, without Content-Encoding", headers=_CLOSE
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > most:
        if "expect" not in request.headers:  # with Expect, the caller has not sent the body yet
            await _drain(request.stream(), seconds)
        raise _too_large(most)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds or None):
            async for chunk in (stream := request.stream()):
                size += len(chunk)
                if size > most:
                    chunks.clear()
                    await _drain(stream, seconds)
                    raise _too_large(most)
                chunks.append(chunk)
    except TimeoutError as err:
        raise ApiError(
            408, f"the body did not arrive within {seconds:g} s", todo="send it faster", headers=_CLOSE
        ) from err
    except ClientDisconnect as err:
        raise ApiError(400, "the caller disconnected before the body was complete", headers=_CLOSE) from err
    return b"".join(chunks)


async def wait_until_gone(request: Request) -> None:
    """Wait until the caller of a request whose body has been read closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _drain(stream: AsyncIterator[bytes], seconds: float) -> None:
    """Read to the end, because a caller that is still sending would see a broken connection, not the response."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(min(_DRAIN_SECONDS, seconds or _DRAIN_SECONDS)):
            async for _ in stream:
                pass


_CLOSE = {"Connection": "close"}  # unread bytes of the body would be parsed as the next request


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"the body has more than {most} bytes",
        todo="send fewer or shorter documents, or raise --max-body-bytes",
        headers=_CLOSE,
    )
