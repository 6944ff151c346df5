"""Ranking and grading metrics on numpy arrays.

The trainer needs them between steps; the tests hold each against ir-measures, scikit-learn or a closed form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def ndcg_per_query(score: Floats, gains: Floats, query_index: Ints, *, cutoff: int = 10) -> dict[int, float]:
    """Normalised discounted cumulative gain of each query.

    Järvelin and Kekäläinen 2002, with the gains given and discount ``log2(rank + 1)``. Ties keep the order
    given, as OpenSearch's sort does. Queries without any gain have no ideal order and are left out.

    :param score: ``[n]`` higher is better.
    :param gains: ``[n]`` at least 0.
    :param query_index: ``[n]`` which query a pair is of.
    :param cutoff: ranks counted.
    :return: nDCG by query index.
    """
    values = {}
    for query in np.unique(query_index):
        rows = np.flatnonzero(query_index == query)
        ideal = _dcg(np.sort(gains[rows])[::-1], cutoff)
        if ideal > 0:
            values[int(query)] = _dcg(gains[rows][np.argsort(-score[rows], kind="stable")], cutoff) / ideal
    return values


def _dcg(gains: Floats, cutoff: int) -> float:
    top = np.asarray(gains[:cutoff], dtype=np.float64)
    return float((top / np.log2(np.arange(2, 2 + len(top)))).sum())


def macro_f1(predicted: Ints, grades: Ints) -> float:
    """Mean F1 over the grades that occur in truth or prediction.

    :param predicted: ``[n]`` grades.
    :param grades: ``[n]`` true grades.
    :return: macro F1 in [0, 1]; nan for no pairs.
    """
    scores = []
    for grade in np.union1d(predicted, grades):
        hit = float(((predicted == grade) & (grades == grade)).sum())
        scores.append(2 * hit / float((predicted == grade).sum() + (grades == grade).sum()))
    return float(np.mean(scores)) if scores else float("nan")


def quadratic_kappa(predicted: Ints, grades: Ints, k: int) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968).

    :param predicted: ``[n]`` grades in ``0..k-1``.
    :param grades: ``[n]`` true grades.
    :param k: number of grades.
    :return: kappa, 1 for agreement and 0 for chance; nan where both are constant and equal.
    """
    table = np.zeros((k, k))
    np.add.at(table, (predicted, grades), 1.0)
    weight = np.square(np.subtract.outer(np.arange(k), np.arange(k)))
    expected = np.outer(table.sum(1), table.sum(0)) / max(table.sum(), 1.0)
    chance = float((weight * expected).sum())
    return 1.0 - float((weight * table).sum()) / chance if chance > 0 else float("nan")


def expected_calibration_error(grade_probs: Floats, grades: Ints, *, bins: int = 15) -> float:
    """Gap between confidence and accuracy of the most probable grade, in equal-mass bins.

    Guo et al. 2017, arXiv:1706.04599, with bins of equal count.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` true grades.
    :param bins: at most this many.
    :return: ECE in [0, 1]; nan for no pairs.
    """
    if not len(grades):
        return float("nan")
    confidence, right = grade_probs.max(1), (grade_probs.argmax(1) == grades).astype(float)
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(grades)))
    return float(sum(len(p) * abs(confidence[p].mean() - right[p].mean()) for p in parts) / len(grades))
