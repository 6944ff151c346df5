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
    parts = confidence_bins(grade_probs, bins=bins)
    return float(sum(len(p) * abs(confidence[p].mean() - right[p].mean()) for p in parts) / len(grades))


def confidence_bins(grade_probs: Floats, *, bins: int = 15) -> list[Ints]:
    """Part pairs by the probability of their most probable grade, as many in each part.

    :param grade_probs: ``[n, k]``.
    :param bins: at most this many.
    :return: rows of each bin, the least confident first; none for no pairs.
    """
    if not len(grade_probs):
        return []
    return list(np.array_split(np.argsort(grade_probs.max(1), kind="stable"), min(bins, len(grade_probs))))


def ranked_probability_score(grade_probs: Floats, grades: Ints) -> NDArray[np.float64]:
    """How far the predicted distribution lies from the given grade, on the ordered scale; lower is better.

    Epstein 1969, doi:10.1175/1520-0450(1969)008<0985:ASSFPF>2.0.CO;2, over ``k - 1``: the mean squared
    difference of the cumulative distributions. A proper score, so it rewards calibration and sharpness both.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` in ``0..k-1``.
    :return: ``[n]`` in [0, 1].
    """
    k = grade_probs.shape[1]
    given = grades[:, None] <= np.arange(k - 1)
    return np.asarray(np.square(grade_probs.cumsum(1)[:, :-1] - given).mean(1), dtype=np.float64)


def off_by_two(predicted: Ints, grades: Ints) -> float:
    """Share of pairs whose predicted grade is two or more away from the given one.

    :param predicted: ``[n]`` grades.
    :param grades: ``[n]`` true grades.
    :return: the share in [0, 1]; nan for no pairs.
    """
    return float((np.abs(predicted - grades) >= 2).mean()) if len(grades) else float("nan")
