"""Parameters of the judge ``llm``."""

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
    """Endpoint, prompt, sampling and budget."""

    url: str = setting("", "base URL of an OpenAI-compatible endpoint, such as http://host:8000/v1")
    model: str = setting("", "name of the model")
    prompt: str = setting("", "prompt file with {query}, {item}, {grades} and {guideline}; empty: the built-in prompt")
    logprobs: Literal["auto", "never"] = setting(
        "auto", "auto: use the token probabilities of the grades if the endpoint returns them"
    )
    temperature: float = setting(0.0, "sampling temperature of the answer with probabilities", least=0, most=2)
    samples: int = setting(5, "answers to average when there are no probabilities", least=1, most=100)
    sample_temperature: float = setting(1.0, "sampling temperature of those answers", least=0, most=2)
    max_tokens: int = setting(16, "maximum tokens per answer; allow more for reasoning models", least=1)
    extra: str = setting("", "further request fields, as a JSON object")
    concurrency: int = setting(4, "concurrent requests", least=1, most=64)
    per_minute: float = setting(0.0, "maximum requests per minute; 0: no limit", least=0)
    timeout_s: float = setting(60.0, "seconds to wait for an answer", least=0.1)
    retries: int = setting(5, "retries after a transient failure", least=0)
    backoff_s: float = setting(1.0, "seconds before the first retry, doubled for each further one", least=0)
    max_wait_s: float = setting(120.0, "maximum seconds to wait when Retry-After asks for more", least=0)
    token_cap: int = setting(0, "maximum tokens in total; 0: no limit", least=0)
    cost_cap: float = setting(0.0, "maximum cost in total; 0: no limit", least=0)
    price_in: float = setting(0.0, "price of a million input tokens", least=0)
    price_out: float = setting(0.0, "price of a million output tokens", least=0)
    cache: str = setting("", "SQLite file that caches answers; empty: llm.sqlite in the work folder")

    @property
    def prices(self) -> Prices:
        """Prices of tokens."""
        return Prices(self.price_in, self.price_out)

    def check(self) -> dict[str, Any]:
        """Check that the parameters fit together.

        :raises UsageError: if they do not.
        """
        complete_url(self.url)
        if not self.model:
            raise UsageError("llm.model is empty", todo="set it to the name of the model")
        if self.cost_cap and not (self.price_in or self.price_out):
            raise UsageError("llm.cost_cap requires prices", todo="set price_in and price_out, or token_cap")
        try:
            extra = json.loads(self.extra) if self.extra else {}
        except ValueError:
            extra = None
        if not isinstance(extra, dict):
            raise UsageError(f"llm.extra is {self.extra!r}, not a JSON object", todo='write {"field": value}')
        return extra

    def key(self, prompt: str, sample: int, scale: GradeScale) -> str:
        """Digest everything that an answer depends on, as its key in the cache.

        :param sample: 0 for the answer with probabilities, then 1, 2, … for the sampled ones.
        :param scale: the grades to read the reply by: a prompt need not list them.
        """
        mode = self.logprobs if sample == 0 else "sample"
        temperature = self.temperature if sample == 0 else self.sample_temperature
        parts = [
            complete_url(self.url),
            self.model,
            prompt,
            mode,
            temperature,
            self.max_tokens,
            self.extra,
            sample,
            scale.names,
        ]
        return digest_json(parts, ensure_ascii=False)

    def has_all_samples(self, prompt: str, cache: Cache, scale: GradeScale) -> bool:
        """Whether all sampled answers about a pair are cached; one sample is not an average."""
        keys = (self.key(prompt, n, scale) for n in range(1, self.samples + 1))
        return self.samples > 1 and all(cache.get(key) is not None for key in keys)

    def has_answer(self, prompt: str, cache: Cache, scale: GradeScale) -> bool:
        """Whether a pair needs no request: its answer, or all of its samples, are cached."""
        first = cache.get(self.key(prompt, 0, scale))
        if first is not None and (first["probs"] is not None or self.samples == 1):
            return True
        return self.has_all_samples(prompt, cache, scale)

    def cache_path(self, job: JudgingJob) -> Path:
        """Return the path of the answer cache."""
        return job.base / self.cache if self.cache else job.file("llm", ".sqlite")
