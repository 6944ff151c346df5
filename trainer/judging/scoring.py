"""Whether a judge's labels can be used, by its agreement with gold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.judging.agreement import Agreement, measure_agreement
from trainer.judging.base import Answer
from trainer.judging.config import JudgeConfig

MIN_QUERIES = 5  # an interval from fewer resampled queries is narrower than it should be
USED, UNSCORED, REFUSED, WAITING = "used", "unscored", "refused", "waiting"


@dataclass(frozen=True)
class ScoredRater:
    """A judge, its answers and its verdict.

    :param name: as configured, with ``/`` and the rater if there are several.
    :param answers: by task, including gold.
    :param gold: agreement with gold; None if it graded none.
    :param verdict: ``used``, ``unscored`` (used without a score), ``refused`` or ``waiting`` (for people).
    """

    name: str
    answers: Mapping[str, Answer]
    gold: Agreement | None
    verdict: str
    why: str
    counts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether its labels can be used."""
        return self.verdict in (USED, UNSCORED)

    def to_json(self, tasks: frozenset[str]) -> dict[str, Any]:
        """Render for the report.

        :param tasks: the tasks without gold.
        """
        answers = [answer for task, answer in self.answers.items() if task in tasks]
        graded = sum(answer.grade is not None for answer in answers)
        return {
            "judge": self.name,
            "verdict": self.verdict,
            "why": self.why,
            "graded": graded,
            "passed_over": len(answers) - graded,
            "unanswered": len(tasks) - len(answers),
            "gold": self.gold.to_json() if self.gold else None,
            **({"counts": dict(self.counts)} if self.counts else {}),
        }


def keep_graded(answers: Mapping[str, Answer]) -> dict[str, int]:
    """Return the grades by task, without skipped pairs."""
    return {task: answer.grade for task, answer in answers.items() if answer.grade is not None}


def score_rater(
    name: str,
    answers: Mapping[str, Answer],
    gold: Mapping[str, int],
    queries: Mapping[str, str],
    config: JudgeConfig,
    *,
    k: int,
    trusted: bool,
    waiting: bool,
    counts: Mapping[str, Any],
) -> ScoredRater:
    """Score a judge against gold; a bad score means refusal, trusted or not.

    :param answers: by task.
    :param gold: known grades of the gold tasks it was given.
    :param trusted: whether it may be used without a score.
    :param waiting: whether more answers are expected.
    """
    grades = {task: grade for task, grade in keep_graded(answers).items() if task in gold}
    agreement = measure_agreement(gold, grades, queries, k, draws=config.draws, seed=config.seed) if grades else None
    few = agreement is None or agreement.pairs < config.min_gold or agreement.queries < MIN_QUERIES
    if waiting:
        verdict, why = WAITING, "people have not answered every task yet"
    elif agreement is None or few or math.isnan(agreement.quadratic.low):
        pairs, of = (agreement.pairs, agreement.queries) if agreement else (0, 0)
        shortfall = f"it graded {pairs} gold pairs of {of} queries"
        if not few:
            shortfall = "its kappa on gold is undefined: there is only one grade"
        needed = f"a score needs {config.min_gold} pairs of {MIN_QUERIES} queries"
        verdict, why = (UNSCORED if trusted else REFUSED), f"{shortfall}; {needed}" if few else shortfall
    else:
        kappa = agreement.quadratic
        measured = f"kappa with gold is {kappa.mean:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]"
        above = kappa.low >= config.min_kappa
        verdict = USED if above else REFUSED
        why = f"{measured}, its lower bound {'at or above' if above else 'below'} {config.min_kappa:g}"
    return ScoredRater(name, answers, agreement, verdict, why, counts)
