"""Measures of predicted grades, of one table of counts or of many at once, and of their probabilities.

A table is ``[k, k]`` counts of pairs, rows the given grade, columns the predicted one (or those of two judges).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15


def confusion(given: Ints, predicted: Ints, k: int) -> Floats:
    """Count pairs, ``[n]`` grades in ``0..k-1`` each, in a table ``[k, k]``."""
    table: Floats = confusion_by_query(given, predicted, k, np.zeros(len(given), dtype=np.int64), 1)[0]
    return table


def confusion_by_query(given: Ints, predicted: Ints, k: int, query_index: Ints, n_queries: int) -> Floats:
    """Count the pairs of each query.

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
    """Cohen's kappa with quadratic weights (Cohen 1968): :func:`kappa` where a disagreement weighs its square."""
    return kappa(tables, power=2)


def kappa(tables: Floats, *, power: int = 0) -> Floats:
    """Cohen's kappa, ``[..., k, k]`` to ``[...]``: 1 for agreement, 0 for chance.

    :param power: a disagreement of ``d`` grades weighs ``d**power``: 0 for plain kappa (Cohen 1960).
    :return: nan where both sides are constant and equal, or the table is empty.
    """
    grades = np.arange(tables.shape[-1])
    apart = np.abs(np.subtract.outer(grades, grades)).astype(np.float64)
    weight = np.where(apart > 0, apart**power, 0.0)
    n = np.maximum(tables.sum((-1, -2)), 1.0)
    expected = tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :] / n[..., None, None]
    chance, seen = (weight * expected).sum((-1, -2)), (weight * tables).sum((-1, -2))
    return np.where(chance > 0, 1.0 - seen / np.where(chance > 0, chance, 1.0), np.nan)


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
    """Part pairs by the probability of their most probable grade, as many in each part.

    :param grade_probs: ``[n, k]``.
    :param bins: at most this many.
    :return: rows of each bin, the least confident first; none for no pairs.
    """
    if not len(grade_probs):
        return []
    return list(np.array_split(np.argsort(grade_probs.max(1), kind="stable"), min(bins, len(grade_probs))))


def expected_calibration_error(grade_probs: Floats, grades: Ints, *, bins: int = BINS) -> float:
    """Gap between confidence and accuracy of the most probable grade, in equal-mass bins.

    Guo et al. 2017, arXiv:1706.04599, with bins of equal count.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` true grades.
    :param bins: at most this many.
    :return: ECE in [0, 1]; nan for no pairs.
    """
    one_query = np.zeros(len(grades), dtype=np.int64)
    return float(calibration_error(calibration_sums(grade_probs, grades, one_query, 1, bins=bins)[0]))


def calibration_sums(
    grade_probs: Floats, grades: Ints, query_index: Ints, n_queries: int, *, bins: int = BINS
) -> Floats:
    """Sum up what each query adds to the calibration error; a resample keeps the bins of the whole.

    :return: ``[n_queries, 2, bins]``: confidence less accuracy, then pairs.
    """
    rows_of_bins = confidence_bins(grade_probs, bins=bins)
    sums = np.zeros((n_queries, 2, max(1, len(rows_of_bins))))
    gap = grade_probs.max(1) - (grade_probs.argmax(1) == grades) if len(grades) else np.zeros(0)
    for place, rows in enumerate(rows_of_bins):
        np.add.at(sums[:, 0, place], query_index[rows], gap[rows])
        np.add.at(sums[:, 1, place], query_index[rows], 1.0)
    return sums


def calibration_error(sums: Floats) -> Floats:
    """Take the calibration error of :func:`calibration_sums`, ``[..., 2, bins]`` to ``[...]``; nan for no pairs."""
    gap, pairs = sums[..., 0, :], sums[..., 1, :]
    n = pairs.sum(-1)
    return np.where(n > 0, np.abs(gap).sum(-1) / np.where(n > 0, n, 1.0), np.nan)


def ranked_probability_score(grade_probs: Floats, grades: Ints) -> Floats:
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
