"""Metrics of grades and grade probabilities, vectorised over tables of counts.

A table is ``[k, k]`` counts of pairs, with given grades as rows and predicted grades as columns (or two judges').
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15


def confusion(given: Ints, predicted: Ints, k: int) -> Floats:
    """Count pairs in a table ``[k, k]``.

    :param given: ``[n]`` in ``0..k-1``.
    :param predicted: ``[n]`` in ``0..k-1``.
    """
    table: Floats = confusion_by_query(given, predicted, k, np.zeros(len(given), dtype=np.int64), 1)[0]
    return table


def confusion_by_query(given: Ints, predicted: Ints, k: int, query_index: Ints, n_queries: int) -> Floats:
    """Count pairs in a table per query.

    :param query_index: ``[n]`` in ``0..n_queries-1``.
    :return: ``[n_queries, k, k]``.
    """
    tables = np.zeros((n_queries, k, k))
    np.add.at(tables, (query_index, given, predicted), 1.0)
    return tables


def macro_f1(tables: Floats) -> Floats:
    """Mean F1 over the grades that occur on either side, ``[..., k, k]`` to ``[...]``; nan for an empty table."""
    hit = np.diagonal(tables, axis1=-2, axis2=-1)
    both = tables.sum(-1) + tables.sum(-2)
    occurs = both > 0
    f1 = np.where(occurs, 2 * hit / np.where(occurs, both, 1.0), 0.0)
    n = occurs.sum(-1)
    return np.where(n > 0, f1.sum(-1) / np.maximum(n, 1), np.nan)


def quadratic_kappa(tables: Floats) -> Floats:
    """Cohen's kappa with quadratic weights (Cohen 1968)."""
    return kappa(tables, power=2)


def kappa(tables: Floats, *, power: int = 0) -> Floats:
    """Cohen's kappa, ``[..., k, k]`` to ``[...]``: 1 for full agreement, 0 for chance.

    :param power: a disagreement by ``d`` grades weighs ``d**power``; 0 is unweighted kappa (Cohen 1960).
    :return: nan if both sides are constant and equal, or the table is empty.
    """
    grades = np.arange(tables.shape[-1])
    apart = np.abs(np.subtract.outer(grades, grades)).astype(np.float64)
    weight = np.where(apart > 0, apart**power, 0.0)
    n = np.maximum(tables.sum((-1, -2)), 1.0)
    expected = tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :] / n[..., None, None]
    chance, observed = (weight * expected).sum((-1, -2)), (weight * tables).sum((-1, -2))
    return np.where(chance > 0, 1.0 - observed / np.where(chance > 0, chance, 1.0), np.nan)


def share_equal(tables: Floats) -> Floats:
    """Share of pairs with the same grade on both sides, ``[..., k, k]`` to ``[...]``; nan for an empty table."""
    return _share(tables, np.eye(tables.shape[-1]))


def off_by_two(tables: Floats) -> Floats:
    """Share of pairs whose grades are two or more apart, ``[..., k, k]`` to ``[...]``; nan for an empty table."""
    grades = np.arange(tables.shape[-1])
    return _share(tables, (np.abs(np.subtract.outer(grades, grades)) >= 2).astype(np.float64))


def _share(tables: Floats, cells: Floats) -> Floats:
    n = tables.sum((-1, -2))
    return np.where(n > 0, (tables * cells).sum((-1, -2)) / np.where(n > 0, n, 1.0), np.nan)


def confidence_bins(grade_probs: Floats, *, bins: int = BINS) -> list[Ints]:
    """Split pairs into bins of equal count by the probability of their most probable grade.

    :param grade_probs: ``[n, k]``.
    :param bins: maximum number of bins.
    :return: rows of each bin, the least confident first; empty for no pairs.
    """
    if not len(grade_probs):
        return []
    return list(np.array_split(np.argsort(grade_probs.max(1), kind="stable"), min(bins, len(grade_probs))))


def reliability(grade_probs: Floats, grades: Ints, *, bins: int = BINS) -> list[dict[str, float]]:
    """Compare confidence with accuracy in each bin of the calibration error.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` true grades.
    :param bins: maximum number of bins.
    :return: ``pairs``, ``confidence`` and ``accuracy`` per bin, the least confident bin first.
    """
    confidence, right = grade_probs.max(1, initial=0.0), grade_probs.argmax(1) == grades
    return [
        {"pairs": len(rows), "confidence": float(confidence[rows].mean()), "accuracy": float(right[rows].mean())}
        for rows in confidence_bins(grade_probs, bins=bins)
    ]


def expected_calibration_error(grade_probs: Floats, grades: Ints, *, bins: int = BINS) -> float:
    """Expected calibration error of the most probable grade (Guo et al. 2017, arXiv:1706.04599), in equal-count bins.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` true grades.
    :param bins: maximum number of bins.
    :return: ECE in [0, 1]; nan for no pairs.
    """
    one_query = np.zeros(len(grades), dtype=np.int64)
    return float(calibration_error(calibration_sums(grade_probs, grades, one_query, 1, bins=bins)[0]))


def calibration_sums(
    grade_probs: Floats, grades: Ints, query_index: Ints, n_queries: int, *, bins: int = BINS
) -> Floats:
    """Compute each query's terms of the calibration error; resamples reuse the bins of all pairs.

    :return: ``[n_queries, 2, bins]``: confidence minus accuracy, then pairs.
    """
    rows_of_bins = confidence_bins(grade_probs, bins=bins)
    sums = np.zeros((n_queries, 2, max(1, len(rows_of_bins))))
    gap = grade_probs.max(1) - (grade_probs.argmax(1) == grades) if len(grades) else np.zeros(0)
    for place, rows in enumerate(rows_of_bins):
        np.add.at(sums[:, 0, place], query_index[rows], gap[rows])
        np.add.at(sums[:, 1, place], query_index[rows], 1.0)
    return sums


def calibration_error(sums: Floats) -> Floats:
    """Compute the error from :func:`calibration_sums`, ``[..., 2, bins]`` to ``[...]``; nan for no pairs."""
    gap, pairs = sums[..., 0, :], sums[..., 1, :]
    n = pairs.sum(-1)
    return np.where(n > 0, np.abs(gap).sum(-1) / np.where(n > 0, n, 1.0), np.nan)


def ranked_probability_score(grade_probs: Floats, grades: Ints) -> Floats:
    """Ranked probability score: mean squared difference of the cumulative distributions; lower is better.

    Epstein 1969, doi:10.1175/1520-0450(1969)008<0985:ASSFPF>2.0.CO;2, divided by ``k - 1``. It is a proper score: it
    rewards both calibration and sharpness.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` in ``0..k-1``.
    :return: ``[n]`` in [0, 1].
    """
    k = grade_probs.shape[1]
    given = grades[:, None] <= np.arange(k - 1)
    return np.asarray(np.square(grade_probs.cumsum(1)[:, :-1] - given).mean(1), dtype=np.float64)
