"""One request to an OpenAI-compatible chat endpoint, tried again while that makes sense."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import json
import math
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darl_opensearch.errors import DarlError, UsageError, load, one_line
from darl_opensearch.io.urls import split_http, without_secrets
from trainer.judging.llm.limits import Pace
from trainer.judging.llm.reply import Reply, Token

MOST_BYTES = 16 << 20  # far above any reply
MOST_TOKENS = 1 << 40  # far above any usage
MOST_BACKOFF_S = 60.0
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # it may well answer later
HERE = frozenset({400, 413, 422})  # about this request alone, such as a text that a filter refuses
# What an endpoint names when it refuses a field, and what is sent instead.
_ADAPT: tuple[tuple[str, Mapping[str, str | None]], ...] = (
    ("logprobs", {"logprobs": None, "top_logprobs": None}),
    ("max_completion_tokens", {"max_tokens": "max_completion_tokens"}),
    ("temperature", {"temperature": None}),
)


class Declined(DarlError):
    """The endpoint gives no answer to this one request; to others it may."""


@dataclass(frozen=True)
class Patience:
    """How long an endpoint is waited for.

    :param timeout_s: seconds an answer may take.
    :param retries: further attempts after a failure that may pass.
    :param backoff_s: seconds before the second attempt, doubled each time, drawn between half and all of it.
    :param max_wait_s: most seconds that the endpoint may ask to wait.
    """

    timeout_s: float
    retries: int
    backoff_s: float
    max_wait_s: float


class Endpoint:
    """A chat endpoint. Any number of threads may ask it.

    :param url: its base, such as ``https://host/v1``, or the whole of ``…/chat/completions``.
    :param key: the bearer token, or ``""``.
    :param patience: how long it is waited for.
    :param pace: how fast it is asked.
    :param connections: requests at the same time.
    :raises UsageError: for a URL that is none, or holds a password.
    :raises MissingExtra: when httpx is not installed.
    """

    def __init__(self, url: str, key: str, patience: Patience, pace: Pace, connections: int) -> None:
        self.url = full_url(url)
        self.retried = 0
        self._key, self._patience, self._pace = key, patience, pace
        self._instead: dict[str, str | None] = {}
        self._httpx = load("httpx", "train")
        if not key.isprintable():  # refused later it would be quoted, escaped, and so not be known for the key
            raise UsageError("the key holds a character that no HTTP header can", todo="set it again")
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            self._client = self._httpx.Client(
                headers=headers, timeout=patience.timeout_s, follow_redirects=False,  # the key would go along
                limits=self._httpx.Limits(max_connections=connections),
            )  # fmt: skip
        except UnicodeEncodeError as err:
            raise UsageError("the key holds a character that no HTTP header can", todo="set it again") from err

    def ask(self, body: Mapping[str, Any], stop: threading.Event) -> Reply:
        """Send a request, and again while that makes sense.

        :param stop: ends the waiting when it is set.
        :raises Declined: when this request alone cannot be answered.
        :raises DarlError: when the endpoint cannot be used.
        """
        attempt = 0
        while True:
            self._pace.wait(stop)
            if stop.is_set():
                raise Declined("it was not asked any more", where=self.url)
            failure, wait, here = self._attempt(body)
            if isinstance(failure, Reply):
                return failure
            if wait is None:
                continue  # the same once more, without the field that was refused
            if wait > self._patience.max_wait_s:
                raise self._error(f"{failure} and asks to wait {wait:.0f} s", "come back later, or raise max_wait_s")
            if attempt >= self._patience.retries:
                kind = Declined if here else DarlError
                raise kind(
                    f"{failure}, {attempt + 1} times in a row", where=self.url,
                    todo="see to the endpoint, then give the same command again: answers so far are kept",
                )  # fmt: skip
            self.retried += 1
            backoff = min(MOST_BACKOFF_S, self._patience.backoff_s * 2**attempt) * random.uniform(0.5, 1.0)
            attempt += 1
            if wait:
                self._pace.hold(wait)  # it asked all of us
            stop.wait(max(wait, backoff))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _attempt(self, body: Mapping[str, Any]) -> tuple[Reply | str, float | None, bool]:
        """Send once: the reply, or what failed with the seconds asked for, and whether the reply itself is at fault."""
        try:
            status, headers, data = self._send(self._adapted(body))
        except self._httpx.DecodingError as err:
            return f"it answers what cannot be unpacked ({self._safe(str(err))})", 0.0, True
        except self._httpx.TransportError as err:  # refused, reset, timed out, cut off
            return f"it cannot be reached ({self._safe(str(err) or type(err).__name__)})", 0.0, False
        except (self._httpx.InvalidURL, UnicodeError) as err:  # a name that only looking it up finds to be none
            raise self._error(f"it cannot be called ({self._safe(str(err))})", "correct llm.url") from err
        if status == 200:
            reply = parse_reply(data)
            if reply is not None:
                return reply, 0.0, False
            return f"it answers no chat completion ({self._safe(data)})", 0.0, True
        said = f"it answers {status} ({self._safe(data)})"
        if status in AGAIN:
            return said, retry_after(headers.get("retry-after")), False
        if status in HERE:
            if self._adapt(data):
                return said, None, True
            raise Declined(said, where=self.url, todo="see whether the endpoint takes such a request")
        raise self._error(said, "check URL, model and key")

    def _send(self, body: Mapping[str, Any]) -> tuple[int, Any, bytes]:
        data = bytearray()
        # The client's own limit is for each read: who sends a blank now and then would be waited for without end.
        deadline = time.monotonic() + self._patience.timeout_s
        with self._client.stream("POST", self.url, json=body) as answer:
            for part in answer.iter_bytes():
                data += part
                if len(data) > MOST_BYTES:
                    raise self._error(f"it answers more than {MOST_BYTES >> 20} MB", "check the URL")
                if time.monotonic() > deadline:
                    raise self._httpx.ReadTimeout(f"no whole answer within {self._patience.timeout_s:g} s")
            return answer.status_code, answer.headers, bytes(data)

    def _adapted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        sent = {}
        for name, value in body.items():
            other = self._instead.get(name, name)
            if other is not None:
                sent[other] = value
        return sent

    def _adapt(self, data: bytes) -> bool:
        """Leave out or rename the field that a refusal names, if that was not done before."""
        said = data[:4000].decode("utf-8", "replace")
        for word, change in _ADAPT:
            if word in said and not change.keys() <= self._instead.keys():
                self._instead |= change
                return True
        return False

    def _error(self, what: str, todo: str) -> DarlError:
        return DarlError(what, where=self.url, todo=todo)

    def _safe(self, said: str | bytes) -> str:
        """Quote what an endpoint said: one short line, and the key not in it."""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        if self._key:
            text = text.replace(self._key, "***")
        return one_line(text)[:200]


def full_url(url: str) -> str:
    """Complete a URL.

    :param url: base or whole.
    :return: with ``/chat/completions``.
    :raises UsageError: for one that is none, or holds a password.
    """
    parts = split_http(url)
    if parts is None:
        shown = without_secrets(url)
        raise UsageError(f"llm.url is {shown!r}, not a URL", todo="write the base of the endpoint: https://host/v1")
    if parts.username or parts.password:
        raise UsageError("llm.url holds a password", todo="set the variable DARL_JUDGE_KEY")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions").geturl()


def retry_after(value: str | None) -> float:
    """Read ``Retry-After``: seconds, or a date (RFC 9110, section 10.2.3).

    :param value: the header, or None.
    :return: seconds from now on; 0 where it says nothing.
    """
    with contextlib.suppress(ValueError):
        seconds = float(value or 0)
        return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
    with contextlib.suppress(ValueError, TypeError):
        when = email.utils.parsedate_to_datetime(value or "")
        now = datetime.datetime.now(tz=datetime.UTC)
        return max(0.0, (when.replace(tzinfo=when.tzinfo or datetime.UTC) - now).total_seconds())
    return 0.0


def parse_reply(data: bytes) -> Reply | None:
    """Read a chat completion.

    :return: the reply; None where it is none.
    """
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        answer = json.loads(data)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str):
            return None
        usage = answer.get("usage") or {}
        return Reply(
            text, _tokens(choice.get("logprobs")), _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
        )  # fmt: skip
    return None


def _count(tokens: Any) -> int:
    """Read a number of tokens; 0, for it to be estimated, where it is none: a budget must not grow by it."""
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens <= MOST_TOKENS else 0


def _tokens(logprobs: Any) -> tuple[Token, ...] | None:
    """Read the probabilities; None where there are none, or they are none."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError):
        tokens = tuple(
            Token(str(one["token"]), tuple((str(t["token"]), float(t["logprob"])) for t in one["top_logprobs"]))
            for one in logprobs["content"]
        )
        if tokens and all(token.top and not any(math.isnan(log) for _, log in token.top) for token in tokens):
            return tokens
    return None
