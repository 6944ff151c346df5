"""A request to an OpenAI-compatible chat endpoint, with retries."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darl_opensearch.errors import DarlError, UsageError, one_line
from darl_opensearch.io.http import (
    RETRYABLE,
    AnswerTooLong,
    HttpAnswer,
    HttpClient,
    InvalidUrl,
    TryAgain,
    Unreachable,
    UnreadableAnswer,
    bearer,
    retry,
)  # fmt: skip
from darl_opensearch.io.urls import holds_credentials, split_http
from trainer.judging.llm.limits import Pace
from trainer.judging.llm.reply import Reply, Token

MOST_TOKENS = 1 << 40  # far above any usage
HERE = frozenset({400, 413, 422})  # concern this request only, such as a text that a filter rejects
# Fields that endpoints reject by name, and their replacements.
_ADAPT: tuple[tuple[str, Mapping[str, str | None]], ...] = (
    ("logprobs", {"logprobs": None, "top_logprobs": None}),
    ("max_completion_tokens", {"max_tokens": "max_completion_tokens"}),
    ("temperature", {"temperature": None}),
)


class Declined(DarlError):
    """The endpoint does not answer this one request, but may answer others."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for an endpoint.

    :param timeout_s: per answer.
    :param retries: after a transient failure.
    :param backoff_s: seconds before the first retry, doubled each time, with jitter between half and all of it.
    :param max_wait_s: maximum pause that the endpoint may ask for.
    """

    timeout_s: float
    retries: int
    backoff_s: float
    max_wait_s: float


class _Failed(TryAgain):
    """An attempt failed.

    :param here: the request itself is at fault; others may be answered.
    """

    def __init__(self, reason: str, wait_s: float = 0.0, *, here: bool = False) -> None:
        super().__init__(reason, wait_s)
        self.here = here


class Endpoint:
    """A chat endpoint for any number of threads.

    :param url: base URL such as ``https://host/v1``, or complete with ``…/chat/completions``.
    :param key: the bearer token, or ``""``.
    :raises UsageError: for an invalid URL, or one with a password.
    """

    def __init__(self, url: str, key: str, patience: Patience, pace: Pace, connections: int) -> None:
        self.url = complete_url(url)
        self.retried = 0
        self._key, self._patience, self._pace = key, patience, pace
        self._instead: dict[str, str | None] = {}
        headers = {"Content-Type": "application/json", "Accept": "application/json"} | bearer(key)
        self._client = HttpClient(patience.timeout_s, headers=headers, connections=connections)

    def ask(self, body: Mapping[str, Any], stop: threading.Event) -> Reply:
        """Send a request, with retries.

        :raises Declined: if only this request cannot be answered.
        :raises DarlError: if the endpoint cannot be used.
        """

        def wait(seconds: float) -> None:
            self.retried += 1
            stop.wait(seconds)

        retries = self._patience.retries
        try:
            return retry(lambda: self._attempt(body, stop), retries, self._patience.backoff_s, wait=wait)
        except _Failed as failure:
            kind = Declined if failure.here else DarlError
            raise kind(
                f"{failure.reason}, {retries + 1} times in a row", where=self.url,
                todo="fix the endpoint, then run the same command again: answers so far are kept",
            ) from failure  # fmt: skip

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _attempt(self, body: Mapping[str, Any], stop: threading.Event) -> Reply:
        """Send once, or again without a rejected field."""
        self._pace.wait(stop)
        if stop.is_set():
            raise Declined("it is no longer called", where=self.url)
        answer = self._send(self._adapt_body(body))
        failure = f"it answers {answer.status} ({self._safe(answer.body)})"
        if answer.status == 200:
            if (reply := parse_reply(answer.body)) is not None:
                return reply
            raise _Failed(f"the answer is not a chat completion ({self._safe(answer.body)})", here=True)
        if answer.status in RETRYABLE:
            seconds = answer.retry_after_s
            if seconds > self._patience.max_wait_s:
                raise self._error(f"{failure} and asks to wait {seconds:.0f} s", "try again later, or raise max_wait_s")
            if seconds:
                self._pace.hold(seconds)  # applies to all threads
            raise _Failed(failure, seconds)
        if answer.status in HERE:
            if self._adapt(answer.body):
                return self._attempt(body, stop)
            raise Declined(failure, where=self.url, todo="check that the endpoint accepts this request")
        raise self._error(failure, "check URL, model and key")

    def _send(self, body: Mapping[str, Any]) -> HttpAnswer:
        try:
            return self._client.send("POST", self.url, json.dumps(body).encode())
        except UnreadableAnswer as err:
            raise _Failed(f"the answer cannot be decoded ({self._safe(str(err))})", here=True) from err
        except Unreachable as err:
            raise _Failed(f"it cannot be reached ({self._safe(str(err))})") from err
        except AnswerTooLong as err:
            raise self._error(str(err), "check the URL") from err
        except InvalidUrl as err:
            raise self._error(f"it cannot be called ({self._safe(str(err))})", "correct llm.url") from err

    def _adapt_body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Rename and drop the fields that the endpoint has rejected."""
        named = {self._instead.get(name, name): value for name, value in body.items()}
        return {name: value for name, value in named.items() if name is not None}

    def _adapt(self, data: bytes) -> bool:
        """Drop or rename the field that an error names, if not done before."""
        refusal = data[:4000].decode("utf-8", "replace")
        for word, change in _ADAPT:
            if word in refusal and not change.keys() <= self._instead.keys():
                self._instead |= change
                return True
        return False

    def _error(self, what: str, todo: str) -> DarlError:
        return DarlError(what, where=self.url, todo=todo)

    def _safe(self, quoted: str | bytes) -> str:
        """Quote an endpoint's answer on one short line without the key."""
        text = quoted.decode("utf-8", "replace") if isinstance(quoted, bytes) else quoted
        if self._key:
            text = text.replace(self._key, "***")
        return one_line(text)[:200]


def complete_url(url: str) -> str:
    """Complete a base URL with ``/chat/completions``.

    :raises UsageError: for an invalid URL, or one with a password.
    """
    if holds_credentials(url):
        raise UsageError("llm.url holds a password", todo="set the variable DARL_JUDGE_KEY")
    if (parts := split_http(url)) is None:
        raise UsageError(f"llm.url is {url!r}, not a URL", todo="write the base of the endpoint: https://host/v1")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions").geturl()


def parse_reply(data: bytes) -> Reply | None:
    """Parse a chat completion; None if it is not one."""
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
    """Read a token count; 0 if invalid, so that it is estimated: the budget must not grow by it."""
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens <= MOST_TOKENS else 0


def _tokens(logprobs: Any) -> tuple[Token, ...] | None:
    """Read token probabilities; None if missing or invalid."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError):
        tokens = tuple(
            Token(str(entry["token"]), tuple((str(t["token"]), float(t["logprob"])) for t in entry["top_logprobs"]))
            for entry in logprobs["content"]
        )
        if tokens and all(token.top and not any(math.isnan(log) for _, log in token.top) for token in tokens):
            return tokens
    return None
