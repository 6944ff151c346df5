"""The LLM judge: pairs in, grade probabilities out, at a known price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from trainer.judging.base import JUDGES, JudgeAnswers, JudgingJob, Report, Task
from trainer.judging.llm.asking import CHARS_A_TOKEN, Asking
from trainer.judging.llm.cache import Cache
from trainer.judging.llm.prompt import fill_prompt, read_prompt
from trainer.judging.llm.settings import LlmSettings


@JUDGES.register(
    "llm",
    cite="grades from token probabilities: Zhuang et al. 2024, arXiv:2310.14122; LLMs as judges of relevance: "
    "Thomas et al. 2024, arXiv:2309.10621",
)
@dataclass(frozen=True, kw_only=True)
class LlmJudge(LlmSettings):
    """A chat endpoint (OpenAI's shape) asked for a grade, with the probability of each."""

    people: ClassVar[bool] = False
    free: ClassVar[bool] = False

    def judge(self, tasks: Sequence[Task], job: JudgingJob, report: Report) -> JudgeAnswers:
        """Answer every pair that is not cached.

        :param tasks: the pairs; each is one request.
        :param job: grades, guideline and work folder.
        :return: the answers; fewer than requested if the budget ends.
        :raises UsageError: for invalid parameters.
        :raises DarlError: if the endpoint cannot be used; answers so far are kept.
        """
        with Asking(self, job) as asking:
            answers = asking.all(tasks, report)
        counts = asking.counts()
        notes = (f"The {asking.capped} was reached: {counts['beyond_cap']:,} pairs were not sent to the model.",)
        return JudgeAnswers({"": answers}, counts=counts, notes=notes if asking.capped else ())

    def foresee(self, tasks: Sequence[Task], job: JudgingJob) -> Mapping[str, Any]:
        """Estimate the cost of judging without any request.

        :param job: grades, guideline and work folder.
        :return: ``calls``, maximum ``prompt_tokens`` and ``completion_tokens``, ``cost`` if priced, and cached pairs.
        """
        self.check()
        prompt = read_prompt(job.base / self.prompt if self.prompt else None)
        path = self.cache_path(job)
        cache = Cache(path) if path.exists() else None
        calls = sent = cached = 0
        for task in tasks:
            text = fill_prompt(prompt, task, job.scale, job.guideline)
            if cache is not None and self.has_answer(text, cache, job.scale):
                cached += 1
                continue
            n = 1 if self.logprobs == "auto" else self.samples
            calls += n
            sent += n * (len(text) // CHARS_A_TOKEN + 1)
        if cache is not None:
            cache.close()
        received = calls * self.max_tokens
        return {
            "calls": calls, "cache_hits": cached, "prompt_tokens": sent, "completion_tokens": received,
            "cost": round(self.prices.cost(sent, received), 6) if self.price_in or self.price_out else None,
        }  # fmt: skip
