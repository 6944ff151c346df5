"""One label from several judges, each weighed by what it said about gold.

After Dawid and Skene 1979 (Applied Statistics 28:20-28): a judge is a table of how it grades a pair whose grade is
known, and judges err independently given that grade. There it is estimated by EM from unlabelled pairs; here it is
counted on gold, so that nothing has to be iterated and a majority in error cannot vote itself right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.judging.base import Answer

Floats = NDArray[np.float64]


def to_probs(answer: Answer, k: int) -> Floats:
    """Read an answer as probabilities.

    :return: ``[k]`` its ``grade_probs``, or 1 at its grade.
    :raises ValueError: for a pair that was passed over.
    """
    if answer.grade is None:
        raise ValueError("a skipped pair has no grade")
    if answer.grade_probs is not None:
        return np.asarray(answer.grade_probs, dtype=np.float64)
    sure: Floats = np.eye(k)[answer.grade]
    return sure


def tabulate_habits(answers: Mapping[str, Answer], gold: Mapping[str, int], k: int, *, smoothing: float) -> Floats:
    """Tabulate how a judge grades a pair of a known grade.

    :param answers: its answers by task, those about gold among them.
    :param gold: known grades by task; empty: the table is the prior alone.
    :param smoothing: pairs that the prior counts for, a row: a judge who errs by ``d`` grades with a probability in
        proportion to exp(-d²).
    :return: ``[k, k]`` rows that sum to 1: the probability of each answer given the grade.
    """
    prior = np.exp(-np.square(np.subtract.outer(np.arange(k), np.arange(k))).astype(np.float64))
    table = smoothing * prior / prior.sum(1, keepdims=True)
    for task, grade in gold.items():
        if (answer := answers.get(task)) is not None and answer.grade is not None:
            table[grade] += to_probs(answer, k)
    return np.asarray(table / table.sum(1, keepdims=True))


def estimate_shares(gold: Mapping[str, int], k: int, *, smoothing: float) -> Floats:
    """Estimate how frequent each grade is.

    :param gold: known grades by task; empty: all are as frequent.
    :return: ``[k]``, summing to 1.
    """
    counts = np.bincount(np.fromiter(gold.values(), dtype=np.int64, count=len(gold)), minlength=k) + smoothing / k
    return np.asarray(counts / counts.sum())


def combine(answers: Sequence[Answer], tables: Sequence[Floats], prior: Floats) -> Answer:
    """Weigh the answers of several judges about one pair.

    :param answers: one or more, each with a grade.
    :param tables: the habits of their judges, ``[k, k]`` each.
    :param prior: ``[k]`` share of each grade.
    :return: the posterior; its grade is the most probable one, ties to the lower. A single answer is taken as it is:
        one judge that passed its gate is not corrected behind its back.
    """
    if len(answers) == 1:
        return Answer(answers[0].grade, answers[0].grade_probs)
    logs = np.log(prior)
    for answer, table in zip(answers, tables, strict=True):
        logs = logs + np.log(np.maximum(table @ to_probs(answer, len(prior)), 1e-300))
    weights = np.exp(logs - logs.max())
    # Rounded, so that a tie is one whatever the order of the judges.
    return Answer.of(np.round(weights / weights.sum(), 9).tolist())
