"""One round of LLM judging: cached answers first, then concurrent requests within the budget."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from darl_opensearch.errors import DarlError
from darl_opensearch.settings.secrets import read_secret
from trainer.judging.base import Answer, JudgingJob, Report, Task
from trainer.judging.llm.cache import Cache
from trainer.judging.llm.endpoint import Declined, Endpoint, Patience
from trainer.judging.llm.limits import Budget, Pace
from trainer.judging.llm.prompt import fill_prompt, read_prompt
from trainer.judging.llm.reply import Reply, average_grades, read_grade, read_probs
from trainer.judging.llm.settings import LlmSettings

KEY_VARIABLE = "DARL_JUDGE_KEY"
MOST_DECLINED = 10  # refusals without any answer, after which the endpoint is at fault, not the pairs
TOP = 20  # OpenAI's maximum
CHARS_A_TOKEN = 4  # an estimate for English; replies report the actual usage


class _Capped(Exception):
    """The budget allows no further request."""


class Asking:
    """Endpoint, cache and budget of one round; use it in a ``with`` statement.

    :param job: grades, guideline and work folder.
    :raises UsageError: for invalid parameters.
    """

    def __init__(self, settings: LlmSettings, job: JudgingJob) -> None:
        self._extra = settings.check()
        self._settings, self._job = settings, job
        self._prompt = read_prompt(job.base / settings.prompt if settings.prompt else None)
        patience = Patience(settings.timeout_s, settings.retries, settings.backoff_s, settings.max_wait_s)
        key = (read_secret(KEY_VARIABLE) or "").strip()
        self._endpoint = Endpoint(settings.url, key, patience, Pace(settings.per_minute), settings.concurrency)
        self._ledger = Cache(job.file("llm", ".sqlite"))  # usage of this work folder, even if answers are shared
        self._cache = Cache(job.base / settings.cache) if settings.cache else self._ledger
        _, *spent = self._ledger.spent()
        self._budget = Budget(settings.token_cap, settings.cost_cap, settings.prices, (spent[0], spent[1]))
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._without_probs = settings.logprobs == "never"
        self._counts = dict.fromkeys(
            ("calls", "cache_hits", "prompt_tokens", "completion_tokens", "declined", "unreadable", "beyond_cap"), 0
        )
        self._answered = False
        self._total = self._ledger.spent()
        self.capped = ""

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._total = self._ledger.spent()
        self._endpoint.close()
        self._cache.close()
        self._ledger.close()

    def all(self, tasks: Sequence[Task], report: Report) -> dict[str, Answer]:
        """Answer all pairs, some concurrently.

        :return: answers by task; fewer than pairs if the budget ends, or no grade can be read.
        :raises DarlError: if the endpoint cannot be used.
        """
        answers: dict[str, Answer] = {}
        remaining, done = iter(tasks), 0
        with ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="darl-judge") as pool:
            pending: dict[Future[Answer | None], Task] = {}
            try:
                while True:
                    while len(pending) < 2 * self._settings.concurrency and (task := next(remaining, None)):
                        pending[pool.submit(self._answer, task)] = task
                    if not pending:
                        return answers
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        task = pending.pop(future)
                        if (answer := future.result()) is not None:
                            answers[task.task] = answer
                        done += 1
                        report("answered", done, len(tasks))
            except BaseException:
                self._stop.set()  # do not wait for pending retries
                for future in pending:
                    future.cancel()
                raise

    def counts(self) -> dict[str, Any]:
        """Return JSON-ready usage counts of this round and of all rounds."""
        calls, sent, received = self._total
        prices = self._settings.prices
        this_round: dict[str, Any] = {"retries": self._endpoint.retried, "stopped_by": self.capped or None}
        if self._settings.price_in or self._settings.price_out:
            cost = prices.cost(self._counts["prompt_tokens"], self._counts["completion_tokens"])
            this_round["cost"] = round(cost, 6)
        total = {"calls": calls, "prompt_tokens": sent, "completion_tokens": received,
                 "cost": round(prices.cost(sent, received), 6)}  # fmt: skip
        return {"model": self._settings.model, **self._counts, **this_round, "whole_work": total}

    def _answer(self, task: Task) -> Answer | None:
        text = fill_prompt(self._prompt, task, self._job.scale, self._job.guideline)
        try:
            return self._grade(text)
        except _Capped as cap:
            with self._lock:
                self._counts["beyond_cap"] += 1
            self.capped = str(cap)  # further pairs are still looked up in the cache
            return None
        except Declined as err:
            with self._lock:
                self._counts["declined"] += 1
                hopeless = self._counts["declined"] >= MOST_DECLINED and not self._answered
            if hopeless:
                raise DarlError(
                    err.what, where=err.where, todo="no pair was answered: check the endpoint and the prompt"
                ) from err
            return None

    def _grade(self, text: str) -> Answer | None:
        settings = self._settings
        sample = self._without_probs or settings.has_all_samples(text, self._cache, self._job.scale)
        if not sample or settings.samples == 1:
            first = self._fetch(text, 0, settings.temperature, probs=not self._without_probs)
            if first["probs"] is not None:
                return Answer.of(first["probs"])
            if first["silent"]:
                self._without_probs = True  # it never returns any: sample the next pairs at once
            if settings.samples == 1:
                return self._average([first["grade"]])
        grades = [
            self._fetch(text, n, settings.sample_temperature, probs=False)["grade"]
            for n in range(1, settings.samples + 1)
        ]
        return self._average(grades)

    def _average(self, replies: Sequence[int | None]) -> Answer | None:
        grades = [grade for grade in replies if grade is not None]
        with self._lock:
            self._counts["unreadable"] += not grades
        if not grades:
            return None
        return Answer.of(average_grades(grades, self._job.scale.k)) if len(replies) > 1 else Answer(grades[0])

    def _fetch(self, text: str, sample: int, temperature: float, *, probs: bool) -> dict[str, Any]:
        key = self._settings.key(text, sample, self._job.scale)
        if (cached := self._cache.get(key)) is not None:
            with self._lock:
                self._counts["cache_hits"] += 1
            return cached
        body: dict[str, Any] = {
            "model": self._settings.model, "messages": [{"role": "user", "content": text}],
            "temperature": temperature, "max_tokens": self._settings.max_tokens,
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
        held = (expected, self._settings.max_tokens)
        if forbidden := self.capped or self._budget.take(*held):
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
