"""The parameters of the judge ``llm``, and what follows from them alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.scores import GradeScale
from trainer.judging.base import Job
from trainer.judging.llm.cache import Cache
from trainer.judging.llm.endpoint import full_url
from trainer.judging.llm.limits import Prices
from trainer.judging.tasks import digest


@dataclass(frozen=True, kw_only=True)
class LlmSettings:
    """Which endpoint is asked, how, and at what price at most; the judge registers what each field means."""

    url: str
    model: str
    prompt: str
    logprobs: str
    temperature: float
    samples: int
    sample_temperature: float
    max_tokens: int
    extra: str
    concurrency: int
    per_minute: float
    timeout_s: float
    retries: int
    backoff_s: float
    max_wait_s: float
    token_cap: int
    cost_cap: float
    price_in: float
    price_out: float
    cache: str

    @property
    def prices(self) -> Prices:
        """What tokens cost."""
        return Prices(self.price_in, self.price_out)

    def check(self) -> dict[str, Any]:
        """See that the parameters fit.

        :return: the further fields of a request.
        :raises UsageError: when they do not.
        """
        full_url(self.url)
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
        return digest(full_url(self.url), self.model, prompt, mode, warmth, self.max_tokens, self.extra, sample,
                      scale.names)  # fmt: skip

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

    def cache_path(self, job: Job) -> Path:
        """Locate the file of answers."""
        return job.base / self.cache if self.cache else job.file("llm", ".sqlite")
