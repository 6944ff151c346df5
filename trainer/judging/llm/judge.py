"""The judge itself: pairs in, grade probabilities out, at a known price."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from darl_opensearch.errors import DarlError, UsageError
from trainer.judging.base import JUDGES, Answer, Job, Report, Task, Verdict
from trainer.judging.llm.cache import Cache
from trainer.judging.llm.endpoint import Declined, Endpoint, Patience, full_url
from trainer.judging.llm.limits import Budget, Pace, Prices
from trainer.judging.llm.prompt import fill, read_prompt
from trainer.judging.llm.reply import Reply, average, read_grade, read_probs
from trainer.judging.tasks import digest
from trainer.registry import Param

KEY_VARIABLE = "DARL_JUDGE_KEY"
MOST_DECLINED = 10  # refusals without a single answer: it is not the pairs
TOP = 20  # the most that OpenAI gives
CHARS_A_TOKEN = 4  # an estimate, for English; what was really used comes with each reply


class _Capped(Exception):
    """The budget forbids another request."""


@JUDGES.register(
    "llm",
    cite="grades from token probabilities: Zhuang et al. 2024, arXiv:2310.14122; LLMs as judges of relevance: "
    "Thomas et al. 2024, arXiv:2309.10621",
    params={
        "url": Param(kind=str, default="", help="base of an OpenAI-compatible endpoint, such as http://host:8000/v1"),
        "model": Param(kind=str, default="", help="model to ask"),
        "prompt": Param(kind=str, default="", help="file with {query}, {item}, {grades}, {guideline}; empty: built in"),
        "logprobs": Param(kind=str, default="auto", choices=("auto", "never"),
                          help="auto: read the grade's probabilities where the endpoint gives them"),
        "temperature": Param(kind=float, default=0.0, min=0.0, max=2.0, help="of the one answer with probabilities"),
        "samples": Param(kind=int, default=5, min=1, max=100, help="answers averaged where there are no probabilities"),
        "sample_temperature": Param(kind=float, default=1.0, min=0.0, max=2.0, help="of those answers"),
        "max_tokens": Param(kind=int, default=16, min=1, help="most tokens of an answer; more for models that reason"),
        "extra": Param(kind=str, default="", help="further fields of the request, as a JSON object"),
        "concurrency": Param(kind=int, default=4, min=1, max=64, help="requests at the same time"),
        "per_minute": Param(kind=float, default=0.0, min=0.0, help="most requests a minute; 0: no limit"),
        "timeout_s": Param(kind=float, default=60.0, min=0.1, help="seconds an answer may take"),
        "retries": Param(kind=int, default=5, min=0, help="further attempts after a failure that may pass"),
        "backoff_s": Param(kind=float, default=1.0, min=0.0, help="seconds before the second attempt, then doubled"),
        "max_wait_s": Param(kind=float, default=120.0, min=0.0, help="longest pause that Retry-After may ask for"),
        "token_cap": Param(kind=int, default=0, min=0, help="most tokens of the whole work; 0: no limit"),
        "cost_cap": Param(kind=float, default=0.0, min=0.0, help="most money for the whole work; 0: no limit"),
        "price_in": Param(kind=float, default=0.0, min=0.0, help="price of a million tokens sent"),
        "price_out": Param(kind=float, default=0.0, min=0.0, help="price of a million tokens received"),
        "cache": Param(kind=str, default="", help="SQLite file of answers; empty: llm.sqlite in the work's folder"),
    },
)  # fmt: skip
@dataclass(frozen=True, kw_only=True)
class LlmJudge:
    """A chat endpoint (OpenAI's shape) asked for a grade, with the probability of each.

    :param url: base of the endpoint.
    :param model: model to ask.
    :param prompt: file of the prompt.
    :param logprobs: whether to ask for probabilities.
    :param temperature: of the one answer with probabilities.
    :param samples: answers averaged without them.
    :param sample_temperature: of those answers.
    :param max_tokens: most tokens of an answer.
    :param extra: further fields of the request.
    :param concurrency: requests at the same time.
    :param per_minute: most requests a minute.
    :param timeout_s: seconds an answer may take.
    :param retries: further attempts.
    :param backoff_s: seconds before the second attempt.
    :param max_wait_s: longest pause that the endpoint may ask for.
    :param token_cap: most tokens of the whole work.
    :param cost_cap: most money for the whole work.
    :param price_in: price of a million tokens sent.
    :param price_out: price of a million tokens received.
    :param cache: SQLite file of answers.
    """

    people: ClassVar[bool] = False
    free: ClassVar[bool] = False
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

    def judge(self, tasks: Sequence[Task], job: Job, report: Report) -> Verdict:
        """Ask about every pair that the cache does not know.

        :param tasks: the pairs; each is asked on its own.
        :param job: grades, guideline and place.
        :param report: told how many are answered.
        :return: the answers; fewer than asked for where the budget ends.
        :raises UsageError: for parameters that do not fit.
        :raises DarlError: when the endpoint cannot be used; what was answered so far is kept.
        """
        with _Asking(self, job) as asking:
            answers = asking.all(tasks, report)
        notes = (f"The {asking.capped} was reached: {len(tasks) - len(answers):,} pairs were not asked about.",)
        return Verdict({"": answers}, counts=asking.counts(), notes=notes if asking.capped else ())

    def foresee(self, tasks: Sequence[Task], job: Job) -> Mapping[str, Any]:
        """Estimate what judging would take, without asking.

        :param tasks: the pairs.
        :param job: grades, guideline and place.
        :return: ``calls``, ``prompt_tokens`` and ``completion_tokens`` at most, ``cost`` where prices are given, and
            pairs that the cache knows.
        """
        self.check()
        prompt = read_prompt(job.base / self.prompt if self.prompt else None)
        path = self._cache_path(job)
        cache = Cache(path) if path.exists() else None
        calls = sent = known = 0
        for task in tasks:
            text = fill(prompt, task, job.scale, job.guideline)
            if cache is not None and self._known(text, cache):
                known += 1
                continue
            n = 1 if self.logprobs == "auto" else self.samples
            calls += n
            sent += n * (len(text) // CHARS_A_TOKEN + 1)
        if cache is not None:
            cache.close()
        received = calls * self.max_tokens
        return {
            "calls": calls, "cache_hits": known, "prompt_tokens": sent, "completion_tokens": received,
            "cost": round(self.prices.cost(sent, received), 6) if self.price_in or self.price_out else None,
        }  # fmt: skip

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

    def key(self, prompt: str, sample: int) -> str:
        """Name a request in the cache.

        :param prompt: the filled prompt.
        :param sample: 0 for the answer with probabilities, then 1, 2, … for the sampled ones.
        :return: a digest of everything that the answer depends on.
        """
        mode = self.logprobs if sample == 0 else "sample"
        warmth = self.temperature if sample == 0 else self.sample_temperature
        return digest(full_url(self.url), self.model, prompt, mode, warmth, self.max_tokens, self.extra, sample)

    def _known(self, prompt: str, cache: Cache) -> bool:
        found = cache.get(self.key(prompt, 0))
        if found is not None and (found["probs"] is not None or self.samples == 1):
            return True
        return all(cache.get(self.key(prompt, n)) is not None for n in range(1, self.samples + 1))

    def _cache_path(self, job: Job) -> Path:
        return job.base / self.cache if self.cache else job.file("llm", ".sqlite")


class _Asking:
    """One call of the judge: endpoint, cache and budget, while it lasts."""

    def __init__(self, judge: LlmJudge, job: Job) -> None:
        self._extra = judge.check()
        self._judge, self._job = judge, job
        self._prompt = read_prompt(job.base / judge.prompt if judge.prompt else None)
        patience = Patience(judge.timeout_s, judge.retries, judge.backoff_s, judge.max_wait_s)
        key = os.environ.get(KEY_VARIABLE, "").strip()
        self._endpoint = Endpoint(judge.url, key, patience, Pace(judge.per_minute), judge.concurrency)
        self._ledger = Cache(job.file("llm", ".sqlite"))  # what this work has cost, whoever else uses the answers
        self._cache = Cache(job.base / judge.cache) if judge.cache else self._ledger
        _, *spent = self._ledger.spent()
        self._budget = Budget(judge.token_cap, judge.cost_cap, judge.prices, (spent[0], spent[1]))
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._without_probs = judge.logprobs == "never"
        self._counts = dict.fromkeys(
            ("calls", "cache_hits", "prompt_tokens", "completion_tokens", "declined", "unreadable"), 0
        )
        self._answered = False
        self._total = self._ledger.spent()
        self.capped = ""

    def __enter__(self) -> _Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._total = self._ledger.spent()
        self._endpoint.close()
        self._cache.close()
        self._ledger.close()

    def all(self, tasks: Sequence[Task], report: Report) -> dict[str, Answer]:
        """Ask about all pairs, some at the same time."""
        answers: dict[str, Answer] = {}
        rest, done = iter(tasks), 0
        with ThreadPoolExecutor(self._judge.concurrency, thread_name_prefix="darl-judge") as pool:
            under_way: dict[Future[Answer | None], Task] = {}
            try:
                while True:
                    while (
                        len(under_way) < 2 * self._judge.concurrency and not self.capped and (task := next(rest, None))
                    ):
                        under_way[pool.submit(self._one, task)] = task
                    if not under_way:
                        return answers
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        task = under_way.pop(future)
                        if (answer := future.result()) is not None:
                            answers[task.task] = answer
                        done += 1
                        report("answered", done, len(tasks))
            except BaseException:
                self._stop.set()  # a request that waits for its next attempt would hold the others up
                for future in under_way:
                    future.cancel()
                raise

    def counts(self) -> dict[str, Any]:
        """Say what it cost."""
        calls, sent, received = self._total
        prices = self._judge.prices
        mine: dict[str, Any] = {"retries": self._endpoint.retried, "stopped_by": self.capped or None}
        if self._judge.price_in or self._judge.price_out:
            cost = prices.cost(self._counts["prompt_tokens"], self._counts["completion_tokens"])
            mine["cost"] = round(cost, 6)
        total = {"calls": calls, "prompt_tokens": sent, "completion_tokens": received,
                 "cost": round(prices.cost(sent, received), 6)}  # fmt: skip
        return {"model": self._judge.model, **self._counts, **mine, "whole_work": total}

    def _one(self, task: Task) -> Answer | None:
        if self.capped:
            return None
        text = fill(self._prompt, task, self._job.scale, self._job.guideline)
        try:
            return self._grade(text)
        except _Capped as cap:
            self.capped = str(cap)
            return None
        except Declined as err:
            with self._lock:
                self._counts["declined"] += 1
                hopeless = self._counts["declined"] >= MOST_DECLINED and not self._answered
            if hopeless:
                raise DarlError(
                    err.what, where=err.where, todo="no pair was answered: see to endpoint and prompt"
                ) from err
            return None

    def _grade(self, text: str) -> Answer | None:
        judge = self._judge
        if not self._without_probs or judge.samples == 1:
            found = self._fetch(text, 0, judge.temperature, probs=not self._without_probs)
            if found["probs"] is not None:
                return Answer.of(found["probs"])
            if found["silent"]:
                self._without_probs = True  # it never gives any: the next pairs are sampled at once
            if judge.samples == 1:
                return self._sampled([found["grade"]])
        said = [
            self._fetch(text, n, judge.sample_temperature, probs=False)["grade"] for n in range(1, judge.samples + 1)
        ]
        return self._sampled(said)

    def _sampled(self, said: Sequence[int | None]) -> Answer | None:
        grades = [grade for grade in said if grade is not None]
        with self._lock:
            self._counts["unreadable"] += not grades
        if not grades:
            return None
        return Answer.of(average(grades, self._job.scale.k)) if len(said) > 1 else Answer(grades[0])

    def _fetch(self, text: str, sample: int, temperature: float, *, probs: bool) -> dict[str, Any]:
        key = self._judge.key(text, sample)
        if (kept := self._cache.get(key)) is not None:
            with self._lock:
                self._counts["cache_hits"] += 1
            return kept
        body: dict[str, Any] = {
            "model": self._judge.model, "messages": [{"role": "user", "content": text}],
            "temperature": temperature, "max_tokens": self._judge.max_tokens,
        }  # fmt: skip
        body |= {"logprobs": True, "top_logprobs": TOP} if probs else {}
        reply = self._pay(body | self._extra, len(text) // CHARS_A_TOKEN + 1)
        grade = read_grade(reply.text, self._job.scale)
        value = {
            "text": reply.text[:2000], "grade": grade[0] if grade else None, "silent": reply.tokens is None,
            "probs": read_probs(reply, self._job.scale) if probs else None,
        }  # fmt: skip
        self._cache.put(key, value)
        return value

    def _pay(self, body: Mapping[str, Any], expected: int) -> Reply:
        held = (expected, self._judge.max_tokens)
        if forbidden := self._budget.take(*held):
            raise _Capped(forbidden)
        sent = received = 0
        try:
            reply = self._endpoint.ask(body, self._stop)
            sent = reply.prompt_tokens or expected
            received = reply.completion_tokens or len(reply.text) // CHARS_A_TOKEN + 1
            self._ledger.spend(sent, received)
        finally:
            self._budget.settle(held, sent, received)
        with self._lock:
            self._answered = True
            self._counts["calls"] += 1
            self._counts["prompt_tokens"] += sent
            self._counts["completion_tokens"] += received
        return reply
