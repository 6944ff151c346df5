"""The parameters of the judge ``llm``, and what follows from them alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.errors import UsageError
from darl_opensearch.io.digest import digest_json
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import setting
from trainer.judging.base import JudgingJob
from trainer.judging.llm.cache import Cache
from trainer.judging.llm.endpoint import complete_url
from trainer.judging.llm.limits import Prices


@dataclass(frozen=True, kw_only=True)
class LlmSettings:
    """Which endpoint is asked, how, and at what price at most."""

    url: str = setting("", "base of an OpenAI-compatible endpoint, such as http://host:8000/v1")
    model: str = setting("", "model to ask")
    prompt: str = setting("", "file with {query}, {item}, {grades}, {guideline}; empty: built in")
    logprobs: Literal["auto", "never"] = setting(
        "auto", "auto: read the grade's probabilities where the endpoint gives them"
    )
    temperature: float = setting(0.0, "of the one answer with probabilities", least=0, most=2)
    samples: int = setting(5, "answers averaged where there are no probabilities", least=1, most=100)
    sample_temperature: float = setting(1.0, "of those answers", least=0, most=2)
    max_tokens: int = setting(16, "most tokens of an answer; more for models that reason", least=1)
    extra: str = setting("", "further fields of the request, as a JSON object")
    concurrency: int = setting(4, "requests at the same time", least=1, most=64)
    per_minute: float = setting(0.0, "most requests a minute; 0: no limit", least=0)
    timeout_s: float = setting(60.0, "seconds an answer may take", least=0.1)
    retries: int = setting(5, "further attempts after a failure that may pass", least=0)
    backoff_s: float = setting(1.0, "seconds before the second attempt, then doubled", least=0)
    max_wait_s: float = setting(120.0, "longest pause that Retry-After may ask for", least=0)
    token_cap: int = setting(0, "most tokens of the whole work; 0: no limit", least=0)
    cost_cap: float = setting(0.0, "most money for the whole work; 0: no limit", least=0)
    price_in: float = setting(0.0, "price of a million tokens sent", least=0)
    price_out: float = setting(0.0, "price of a million tokens received", least=0)
    cache: str = setting("", "SQLite file of answers; empty: llm.sqlite in the work's folder")

    @property
    def prices(self) -> Prices:
        """What tokens cost."""
        return Prices(self.price_in, self.price_out)

    def check(self) -> dict[str, Any]:
        """See that the parameters fit.

        :raises UsageError: when they do not.
        """
        complete_url(self.url)
        if not self.model:
            raise UsageError("llm.model is empty", todo="name the model to ask")
        if self.cost_cap and not (self.price_in or self.price_out):
            raise UsageError("llm.cost_cap needs prices", todo="give price_in and price_out, or a token_cap")
        try:
            extra = json.loads(self.extra) if self.extra else {}
        except ValueError:
            extra = None
        if not isinstance(extra, dict):
            raise UsageError(f"llm.extra is {self.extra!r}, not a JSON object", todo='write {"field": value}')
        return extra

    def key(self, prompt: str, sample: int, scale: GradeScale) -> str:
        """Name a request in the cache.

        :param sample: 0 for the answer with probabilities, then 1, 2, … for the sampled ones.
        :param scale: the grades that the reply is read by: a prompt need not list them.
        :return: a digest of everything that the answer depends on.
        """
        mode = self.logprobs if sample == 0 else "sample"
        warmth = self.temperature if sample == 0 else self.sample_temperature
        parts = [
            complete_url(self.url),
            self.model,
            prompt,
            mode,
            warmth,
            self.max_tokens,
            self.extra,
            sample,
            scale.names,
        ]
        return digest_json(parts, ensure_ascii=False)

    def sampled(self, prompt: str, cache: Cache, scale: GradeScale) -> bool:
        """Say whether all sampled answers about a pair are kept.

        :return: whether they are; one sample is no average, and never kept as one.
        """
        keys = (self.key(prompt, n, scale) for n in range(1, self.samples + 1))
        return self.samples > 1 and all(cache.get(key) is not None for key in keys)

    def has_answer(self, prompt: str, cache: Cache, scale: GradeScale) -> bool:
        """Say whether a pair needs no request: its answer, or all samples of it, are in the cache."""
        first = cache.get(self.key(prompt, 0, scale))
        if first is not None and (first["probs"] is not None or self.samples == 1):
            return True
        return self.sampled(prompt, cache, scale)

    def cache_path(self, job: JudgingJob) -> Path:
        """Locate the file of answers."""
        return job.base / self.cache if self.cache else job.file("llm", ".sqlite")
