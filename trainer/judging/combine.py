"""One label from several judges, each weighted by its answers about gold.

After Dawid and Skene 1979 (Applied Statistics 28:20-28): a judge is a confusion table, the probability of each answer
given the true grade, and judges err independently given that grade. They estimate the tables by EM from unlabelled
pairs; here they are counted on gold, so that nothing is iterated and a wrong majority cannot confirm itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.judging.base import Answer

Floats = NDArray[np.float64]


def to_probs(answer: Answer, k: int) -> Floats:
    """Convert an answer to ``[k]`` probabilities: its ``grade_probs``, or 1 at its grade.

    :raises ValueError: for a skipped pair.
    """
    if answer.grade is None:
        raise ValueError("a skipped pair has no grade")
    if answer.grade_probs is not None:
        return np.asarray(answer.grade_probs, dtype=np.float64)
    sure: Floats = np.eye(k)[answer.grade]
    return sure


def tabulate_habits(answers: Mapping[str, Answer], gold: Mapping[str, int], k: int, *, smoothing: float) -> Floats:
    """Estimate a judge's confusion table.

    :param answers: by task, including those about gold.
    :param gold: known grades by task; if empty, the table is the prior.
    :param smoothing: weight of the prior, in pairs per row: an error of ``d`` grades has a probability proportional to
        exp(-d²).
    :return: ``[k, k]`` rows that sum to 1: the probability of each answer given the grade.
    """
    prior = np.exp(-np.square(np.subtract.outer(np.arange(k), np.arange(k))).astype(np.float64))
    table = smoothing * prior / prior.sum(1, keepdims=True)
    for task, grade in gold.items():
        if (answer := answers.get(task)) is not None and answer.grade is not None:
            table[grade] += to_probs(answer, k)
    return np.asarray(table / table.sum(1, keepdims=True))


def estimate_shares(gold: Mapping[str, int], k: int, *, smoothing: float) -> Floats:
    """Estimate the share of each grade, ``[k]``.

    :param gold: known grades by task; if empty, the shares are uniform.
    """
    counts = np.bincount(np.fromiter(gold.values(), dtype=np.int64, count=len(gold)), minlength=k) + smoothing / k
    return np.asarray(counts / counts.sum())


def combine(answers: Sequence[Answer], tables: Sequence[Floats], prior: Floats) -> Answer:
    """Combine the answers of several judges about one pair.

    :param answers: one or more, each with a grade.
    :param tables: ``[k, k]`` confusion table of each judge.
    :param prior: ``[k]`` share of each grade.
    :return: the posterior; its grade is the most probable one, the lower of a tie. A single one is returned as it is:
        a judge that was accepted is not overruled.
    """
    if len(answers) == 1:
        return Answer(answers[0].grade, answers[0].grade_probs)
    logs = np.log(prior)
    for answer, table in zip(answers, tables, strict=True):
        logs = logs + np.log(np.maximum(table @ to_probs(answer, len(prior)), 1e-300))
    weights = np.exp(logs - logs.max())
    # Rounded, so that a tie is one whatever the order of the judges.
    return Answer.of(np.round(weights / weights.sum(), 9).tolist())
