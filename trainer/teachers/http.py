"""A rerank endpoint as teacher: Cohere's and Jina's shape, which ``darl serve`` speaks too."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Annotated, Any

from darl_opensearch.errors import DarlError, InputError, UsageError, one_line
from darl_opensearch.io.urls import split_http, without_secrets
from darl_opensearch.settings import Field
from trainer.teachers.base import TEACHERS, Ask, Place

MOST_BYTES = 64 << 20  # far above any answer
MOST_WAIT_S = 60.0
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # it may well answer later


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none: the key would go with it, to whoever is named."""


@TEACHERS.register("http", cite="ours; the request is Cohere's and Jina's")
class HttpTeacher:
    """Scores of a rerank endpoint: POST {query, documents}, answered with index and relevance_score.

    :param place: not used; every teacher is given it.
    :raises UsageError: for a URL that is none, or with a password, or a variable that is not set.
    """

    def __init__(
        self,
        target: str,
        place: Place,
        *,
        model: Annotated[str, Field("model to name in the request")] = "",
        key_env: Annotated[str, Field("environment variable with the bearer token")] = "",
        documents: Annotated[int, Field("most items a request", least=1)] = 100,
        workers: Annotated[int, Field("requests at the same time", least=1, most=64)] = 4,
        timeout_s: Annotated[float, Field("seconds an answer may take", least=0.1)] = 60.0,
        retries: Annotated[int, Field("further attempts after a failure that may pass", least=0)] = 5,
        backoff_s: Annotated[float, Field("seconds before the second attempt, then doubled", least=0)] = 1.0,
    ) -> None:
        parts = split_http(target)
        if parts is None:
            shown = without_secrets(target)
            raise UsageError(f"[distill] teacher is {shown!r}, not a URL", todo="write http://host:port/v1/rerank")
        if parts.username or parts.password:
            raise UsageError("[distill] teacher holds a password", todo="give a token by teacher_params.key_env")
        self.url, self.model, self.documents, self.workers = target, model, documents, workers
        self.timeout_s, self.retries, self.backoff_s = timeout_s, retries, backoff_s
        self.headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key_env:
            if not os.environ.get(key_env):
                raise UsageError(f"the variable {key_env} is not set", where="[distill] teacher_params",
                                 todo="set it to the endpoint's token")  # fmt: skip
            self.headers["Authorization"] = f"Bearer {os.environ[key_env]}"
        self._opener = urllib.request.build_opener(_NoRedirect())

    def identity(self) -> str:
        """URL and model."""
        return f"{self.url} {self.model}".strip()

    def score(self, ask: Ask) -> list[float | None]:
        """Score the items of one query.

        :return: ``n`` scores.
        :raises DarlError: when the endpoint refuses, or fails again and again, or answers something else.
        """
        scores: list[float | None] = []
        for start in range(0, len(ask.texts), self.documents):
            scores += self._request(ask.query, ask.texts[start : start + self.documents])
        return scores

    def close(self) -> None:
        """Nothing is held."""

    def _request(self, query: str, texts: Sequence[str]) -> list[float | None]:
        body: dict[str, Any] = {"query": query, "documents": list(texts), "return_documents": False}
        if self.model:
            body["model"] = self.model
        data = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            try:
                return self._parse(self._send(data), len(texts))
            except urllib.error.HTTPError as err:
                with err:
                    failure = f"it answers {err.code} ({one_line(err.read(500).decode('utf-8', 'replace'))[:200]})"
                wait = _seconds(err.headers.get("Retry-After"))
                if err.code not in AGAIN:
                    raise DarlError(failure, where=self.url, todo="check URL, model and token") from err
            except (OSError, http.client.HTTPException) as err:  # refused, reset, timed out, cut off
                failure, wait = f"it cannot be reached ({one_line(str(err) or type(err).__name__)[:200]})", 0.0
            if attempt < self.retries:
                time.sleep(min(MOST_WAIT_S, max(wait, self.backoff_s * 2**attempt)))
        raise DarlError(
            f"{failure}, {self.retries + 1} times in a row", where=self.url,
            todo="see to the endpoint, then give the same command again: the scores fetched so far are kept",
        )  # fmt: skip

    def _send(self, data: bytes) -> bytes:
        request = urllib.request.Request(self.url, data=data, headers=self.headers, method="POST")
        with self._opener.open(request, timeout=self.timeout_s) as answer:
            body: bytes = answer.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise InputError(f"the answer is longer than {MOST_BYTES >> 20} MB", where=self.url, todo="check the URL")
        return body

    def _parse(self, body: bytes, n: int) -> list[float | None]:
        scores: list[float | None] = [None] * n
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, RecursionError):
            for result in json.loads(body)["results"]:
                index, score = result["index"], result["relevance_score"]
                if index < 0 or not math.isfinite(score):
                    break
                scores[index] = float(score)
            else:
                if None not in scores:
                    return scores
        raise InputError(
            f"the answer does not score each of the {n} documents ({one_line(body[:200].decode('utf-8', 'replace'))})",
            where=self.url,
            todo="name a rerank endpoint that answers {results: [{index, relevance_score}]}",
        )


def _seconds(value: str | None) -> float:
    """Read ``Retry-After``; a date counts as none."""
    try:
        seconds = float(value or 0)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
