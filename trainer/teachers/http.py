"""A rerank endpoint as teacher, in Cohere's and Jina's format, which ``darl serve`` also uses."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

from darl_opensearch.errors import DarlError, InputError, UsageError, one_line
from darl_opensearch.io.http import (
    MOST_BACKOFF_S,
    RETRYABLE,
    HttpClient,
    HttpError,
    TryAgain,
    Unreachable,
    bearer,
    retry,
)
from darl_opensearch.io.urls import holds_credentials, split_http
from darl_opensearch.settings import Field
from darl_opensearch.settings.secrets import read_secret
from trainer.teachers.base import TEACHERS, TeacherFiles, TeacherRequest

MOST_BYTES = 64 << 20  # far above any answer


@TEACHERS.register("http", cite="ours; the request is Cohere's and Jina's")
class HttpTeacher:
    """Scores of a rerank endpoint: POST {query, documents}, answered with index and relevance_score.

    :raises UsageError: for an invalid URL, one with a password, or an unset variable.
    """

    def __init__(
        self,
        target: str,
        files: TeacherFiles,
        *,
        model: Annotated[str, Field("model named in the request")] = "",
        key_env: Annotated[
            str, Field("environment variable with the bearer token; with _FILE behind its name, the file that holds it")
        ] = "",
        documents: Annotated[int, Field("maximum items per request", least=1)] = 100,
        workers: Annotated[int, Field("concurrent requests", least=1, most=64)] = 4,
        timeout_s: Annotated[float, Field("timeout of a request in seconds", least=0.1)] = 60.0,
        retries: Annotated[int, Field("retries after a transient failure", least=0)] = 5,
        backoff_s: Annotated[float, Field("seconds before the first retry, doubled each time", least=0)] = 1.0,
    ) -> None:
        if holds_credentials(target):
            raise UsageError("[distill] teacher holds a password", todo="pass a token with teacher_params.key_env")
        if split_http(target) is None:
            raise UsageError(f"[distill] teacher is {target!r}, not a URL", todo="write http://host:port/v1/rerank")
        self.url, self.model, self.documents, self.workers = target, model, documents, workers
        self.retries, self.backoff_s = retries, backoff_s
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key_env:
            if not (key := read_secret(key_env)):
                raise UsageError(f"the variable {key_env} is not set", where="[distill] teacher_params",
                                 todo="set it to the endpoint's token")  # fmt: skip
            headers |= bearer(key)
        self._client = HttpClient(timeout_s, headers=headers, most_bytes=MOST_BYTES, connections=workers)

    def identity(self) -> str:
        """Return URL and model."""
        return f"{self.url} {self.model}".strip()

    def score(self, request: TeacherRequest) -> list[float | None]:
        """Score the items of one query.

        :raises DarlError: if the endpoint refuses, keeps failing, or returns anything but scores.
        """
        scores: list[float | None] = []
        for start in range(0, len(request.texts), self.documents):
            scores += self._request(request.query, request.texts[start : start + self.documents])
        return scores

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, query: str, texts: Sequence[str]) -> list[float | None]:
        body: dict[str, Any] = {"query": query, "documents": list(texts), "return_documents": False}
        if self.model:
            body["model"] = self.model
        data = json.dumps(body).encode()
        try:
            return self._parse(retry(lambda: self._send(data), self.retries, self.backoff_s), len(texts))
        except TryAgain as failure:
            raise DarlError(
                f"{failure.reason}, {self.retries + 1} times in a row", where=self.url,
                todo="fix the endpoint, then run the same command again: the scores fetched so far are kept",
            ) from failure  # fmt: skip

    def _send(self, data: bytes) -> bytes:
        try:
            answer = self._client.send("POST", self.url, data)
        except Unreachable as err:
            raise TryAgain(f"the endpoint cannot be reached ({one_line(str(err))[:200]})") from err
        except HttpError as err:
            raise InputError(
                f"no usable answer ({one_line(str(err))[:200]})", where=self.url, todo="check the URL"
            ) from err
        if answer.status == 200:
            return answer.body
        body = one_line(answer.body[:500].decode("utf-8", "replace"))[:200]
        failure = f"the endpoint answers {answer.status} ({body})"
        if answer.status in RETRYABLE:
            raise TryAgain(failure, min(MOST_BACKOFF_S, answer.retry_after_s))
        raise DarlError(failure, where=self.url, todo="check URL, model and token")

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
            todo="use a rerank endpoint that returns {results: [{index, relevance_score}]}",
        )
