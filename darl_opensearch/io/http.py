"""An HTTP client on urllib3, which opensearch-py installs, and retries with backoff."""

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
GRACE_S = 0.5  # for urllib3's own timeouts, which say what took too long
_RANDOM = random.SystemRandom()  # no state that a fork would copy or a caller could seed
RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses after which another attempt makes sense


class HttpError(Exception):
    """A request without a usable answer. The message never contains the URL, which may contain a token."""


class Unreachable(HttpError):
    """Refused, reset, timed out or cut off: another attempt may succeed."""


class UnreadableAnswer(HttpError):
    """The answer cannot be decompressed."""


class AnswerTooLong(HttpError):
    """The answer is longer than allowed."""


class InvalidUrl(HttpError):
    """The URL cannot be requested, for example because its host name is invalid."""


@dataclass(frozen=True)
class HttpAnswer:
    """An answer of any status.

    :param headers: by case-insensitive name.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float:
        """Seconds to wait by ``Retry-After``; 0 without it."""
        return read_retry_after(self.headers.get("Retry-After"))


class HttpClient:
    """A thread-safe client. It does not follow redirects, which would forward tokens and signatures.

    :param timeout_s: for a whole request: name resolution, connection, headers and body.
    :param most_bytes: maximum bytes of a body; 0: bodies are not read.
    :param proxies: use the environment's proxies (``HTTPS_PROXY``, ``NO_PROXY`` …).
    """

    def __init__(
        self, timeout_s: float, *, headers: Mapping[str, str] | None = None, most_bytes: int = MOST_BYTES,
        connections: int = 1, proxies: bool = True,
    ) -> None:  # fmt: skip
        self._timeout_s, self._most_bytes = timeout_s, most_bytes
        self._connections, self._proxies = connections, proxies
        self._headers = dict(headers or {})
        self._pools: dict[str, Any] = {}
        self._lock = threading.Lock()

    def send(
        self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Make one request.

        :raises HttpError: a subclass, if there is no usable answer.
        """
        result: list[HttpAnswer | Exception] = []

        def run() -> None:
            try:
                result.append(self._send(method, url, body, self._headers | dict(headers or {})))
            except Exception as err:  # noqa: BLE001  raised again below
                result.append(err)

        # In a thread: urllib3 limits only each read, so a trickling server or a slow name server could take forever.
        thread = threading.Thread(target=run, daemon=True)  # a daemon, so that it cannot keep the process alive
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
            with contextlib.closing(answer):  # after a complete read its connection is back in the pool
                return HttpAnswer(answer.status, answer.headers, self._read(answer, deadline))
        except exceptions.DecodeError as err:
            raise UnreadableAnswer(_cause(err)) from err
        except ValueError as err:
            raise InvalidUrl(type(err).__name__) from err
        except (exceptions.HTTPError, OSError) as err:
            raise Unreachable(_cause(err)) from err

    def _read(self, answer: Any, deadline: float) -> bytes:
        content = bytearray()
        while self._most_bytes and (chunk := answer.read1(1 << 16)):
            content += chunk
            if len(content) > self._most_bytes:
                raise AnswerTooLong(f"the answer exceeds {self._most_bytes >> 20} MB")
            if time.monotonic() > deadline:
                raise self._too_slow()
        return bytes(content)

    def _too_slow(self) -> Unreachable:
        return Unreachable(f"no complete answer within {self._timeout_s:g} s")

    def _pool(self, url: str) -> Any:
        import urllib3

        proxy = proxy_of(url) if self._proxies else ""
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
    """An attempt failed temporarily.

    :param wait_s: minimum seconds to wait, by the server's ``Retry-After``.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        self.reason, self.wait_s = reason, wait_s
        super().__init__(reason)


def retry(
    attempt: Callable[[], T], retries: int, first_s: float, *, wait: Callable[[float], object] | None = None,
    jitter: bool = True,
) -> T:  # fmt: skip
    """Call ``attempt`` until it does not raise :class:`TryAgain`; after ``retries`` retries, raise that.

    :param wait: called with the seconds to wait; None: ``time.sleep``.
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
    """Compute the seconds to wait, doubling with each earlier failure; jitter takes off up to half."""
    return min(most_s, first_s * 2.0 ** min(failures, 60)) * (_RANDOM.uniform(0.5, 1.0) if jitter else 1.0)


def read_retry_after(value: str | None) -> float:
    """Parse ``Retry-After``, seconds or a date (RFC 9110, section 10.2.3), to seconds from now; 0 if it is neither."""
    with contextlib.suppress(ValueError):
        seconds = float(value or 0)
        return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
    with contextlib.suppress(ValueError, TypeError):
        when = email.utils.parsedate_to_datetime(value or "")
        now = datetime.datetime.now(tz=datetime.UTC)
        return max(0.0, (when.replace(tzinfo=when.tzinfo or datetime.UTC) - now).total_seconds())
    return 0.0


def bearer(token: str) -> dict[str, str]:
    """Make the authorization header for a token; no header for an empty one.

    :raises UsageError: for a character that is not allowed in a header; urllib3's error would quote the token.
    """
    if not (token.isascii() and token.isprintable()):
        raise UsageError("the key holds a character that is not allowed in an HTTP header", todo="set it again")
    return {"Authorization": f"Bearer {token}"} if token else {}


def proxy_of(url: str) -> str:
    """Look up the environment's proxy for a URL; ``""`` if there is none."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _cause(err: BaseException) -> str:
    """Describe the root cause; the messages of urllib3 itself contain the URL."""
    while (cause := err.__cause__ or (err.args or (None,))[-1]) and isinstance(cause, BaseException):
        err = cause
    return str(err) or type(err).__name__
