"""One HTTP client, the one that opensearch-py brings, with one way to try again."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import math
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from darl_opensearch.errors import UsageError

T = TypeVar("T")
MOST_BYTES = 16 << 20
MOST_BACKOFF_S = 60.0
GRACE_S = 0.5  # for the client's own limits to say what took too long
_RANDOM = random.SystemRandom()  # without a state that a fork would copy, or a caller has seeded
RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses after which another attempt makes sense


class HttpError(Exception):
    """A request without a usable answer. The message holds no URL, which could hold a token."""


class Unreachable(HttpError):
    """Refused, reset, timed out or cut off: another attempt may succeed."""


class UnreadableAnswer(HttpError):
    """The answer cannot be decompressed."""


class AnswerTooLong(HttpError):
    """The answer is longer than allowed."""


class InvalidUrl(HttpError):
    """No request can be made of this URL, such as for a host name that cannot be one."""


@dataclass(frozen=True)
class HttpAnswer:
    """An answer of any status.

    :param headers: by name in any case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float:
        """Seconds that ``Retry-After`` asks to wait, 0 without it."""
        return read_retry_after(self.headers.get("Retry-After"))


class HttpClient:
    """A client that any number of threads may use. It follows no redirect: token and signature would go along.

    :param timeout_s: most seconds of a whole request: name, connection, headers and body.
    :param most_bytes: bound on a body; 0: bodies are not read.
    :param proxies: use those that the environment names (``HTTPS_PROXY``, ``NO_PROXY`` …).
    """

    def __init__(
        self, timeout_s: float, *, headers: Mapping[str, str] | None = None, most_bytes: int = MOST_BYTES,
        connections: int = 1, proxies: bool = True,
    ) -> None:  # fmt: skip
        self._timeout_s, self._most_bytes, self._connections, self._proxies = (
            timeout_s,
            most_bytes,
            connections,
            proxies,
        )
        self._headers = dict(headers or {})
        self._pools: dict[str, Any] = {}
        self._lock = threading.Lock()

    def send(
        self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Make one request.

        :raises HttpError: one of its kinds, when there is no usable answer.
        """
        result: list[HttpAnswer | Exception] = []

        def run() -> None:
            try:
                result.append(self._send(method, url, body, self._headers | dict(headers or {})))
            except Exception as err:  # noqa: BLE001  raised again below
                result.append(err)

        # In a thread: urllib3 limits each read, so that a server that drips, or a slow name server, has no limit.
        thread = threading.Thread(target=run, daemon=True)  # left alone where it does not end: the process may
        thread.start()
        thread.join(self._timeout_s + GRACE_S)
        if not result:
            raise self._too_slow()
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    def close(self) -> None:
        """Close the connections that are not in use."""
        for pool in self._pools.values():
            pool.clear()

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> HttpAnswer:
        import urllib3
        from urllib3 import exceptions

        deadline = time.monotonic() + self._timeout_s
        try:
            answer = self._pool(url).request(
                method, url, body=body, headers=headers, timeout=urllib3.Timeout(total=self._timeout_s),
                redirect=False, retries=False, preload_content=False,
            )  # fmt: skip
            with contextlib.closing(answer):  # one that was read to its end has given its connection back by then
                return HttpAnswer(answer.status, answer.headers, self._read(answer, deadline))
        except exceptions.DecodeError as err:
            raise UnreadableAnswer(_cause(err)) from err
        except ValueError as err:
            raise InvalidUrl(type(err).__name__) from err
        except (exceptions.HTTPError, OSError) as err:
            raise Unreachable(_cause(err)) from err

    def _read(self, answer: Any, deadline: float) -> bytes:
        content = bytearray()
        while self._most_bytes and (part := answer.read1(1 << 16)):
            content += part
            if len(content) > self._most_bytes:
                raise AnswerTooLong(f"the answer exceeds {self._most_bytes >> 20} MB")
            if time.monotonic() > deadline:
                raise self._too_slow()
        return bytes(content)

    def _too_slow(self) -> Unreachable:
        return Unreachable(f"no complete answer within {self._timeout_s:g} s")

    def _pool(self, url: str) -> Any:
        import urllib3

        proxy = _proxy_of(url) if self._proxies else ""
        with self._lock:
            if proxy not in self._pools:
                size: dict[str, Any] = {"maxsize": self._connections}
                auth = urllib3.util.parse_url(proxy).auth if proxy else None
                self._pools[proxy] = (
                    urllib3.ProxyManager(
                        proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=auth) if auth else None, **size
                    )
                    if proxy
                    else urllib3.PoolManager(**size)
                )
            return self._pools[proxy]


class TryAgain(Exception):
    """An attempt failed in a way that may pass.

    :param wait_s: least seconds to wait, as the server asked.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        self.reason, self.wait_s = reason, wait_s
        super().__init__(reason)


def retry(
    attempt: Callable[[], T], retries: int, first_s: float, *, wait: Callable[[float], object] | None = None,
    jitter: bool = True,
) -> T:  # fmt: skip
    """Call until it does not raise :class:`TryAgain`, or raise the last of those.

    :param wait: waits for so many seconds; None: sleeps.
    """
    failures = 0
    while True:
        try:
            return attempt()
        except TryAgain as failure:
            if failures >= retries:
                raise
            pause = max(failure.wait_s, backoff(failures, first_s, jitter=jitter))
        failures += 1
        (wait or time.sleep)(pause)


def backoff(failures: int, first_s: float, most_s: float = MOST_BACKOFF_S, *, jitter: bool = True) -> float:
    """Seconds to wait, doubled with each failure before it; with jitter between half and all of that."""
    return min(most_s, first_s * 2.0 ** min(failures, 60)) * (_RANDOM.uniform(0.5, 1.0) if jitter else 1.0)


def read_retry_after(value: str | None) -> float:
    """Read ``Retry-After``, seconds or a date (RFC 9110, section 10.2.3), as seconds from now; 0 if it says neither."""
    with contextlib.suppress(ValueError):
        seconds = float(value or 0)
        return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
    with contextlib.suppress(ValueError, TypeError):
        when = email.utils.parsedate_to_datetime(value or "")
        now = datetime.datetime.now(tz=datetime.UTC)
        return max(0.0, (when.replace(tzinfo=when.tzinfo or datetime.UTC) - now).total_seconds())
    return 0.0


def bearer(token: str) -> dict[str, str]:
    """Headers that carry a token, none for an empty one.

    :raises UsageError: for a character that no header takes; a client's own error would quote the token.
    """
    if not (token.isascii() and token.isprintable()):
        raise UsageError("the key holds a character that is not allowed in an HTTP header", todo="set it again")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _proxy_of(url: str) -> str:
    """URL of the proxy that the environment names for a URL, or ""."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    named = urllib.request.getproxies()
    proxy = named.get(parts.scheme) or named.get("all") or ""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _cause(err: BaseException) -> str:
    """What failed first: urllib3's own words hold the URL."""
    while (cause := err.__cause__ or (err.args or (None,))[-1]) and isinstance(cause, BaseException):
        err = cause
    return str(err) or type(err).__name__
