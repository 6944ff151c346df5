"""Whether more is out of distribution than the calibration lets through."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def share_test(hits: ArrayLike, totals: ArrayLike, alpha: float, *, calibration_queries: int | None = None) -> float:
    """Test whether a share of OOD pairs is above alpha, with queries as the independent units.

    The score test of a binomial share with variance between clusters (Guo et al. 2005, *Statistics in Medicine*
    24:3479, for the robust score test): residuals ``u = hits - alpha * totals`` of the queries, and
    ``z = sum(u) / sqrt(sum(u²))`` against the normal distribution. The variance is taken around alpha, not around
    the share found, so that ``z`` never exceeds the root of the number of queries (Efron 1969, *JASA* 64:1278, on
    why such a ratio has no longer tail than the normal): few queries never give a p-value of 0, whatever they are.

    alpha itself is known only as well as the calibration's queries let it: a threshold from 100 queries may let
    6 % of the very same traffic through, for ever. So the variance grows by ``1 + queries / calibration_queries``,
    as for the difference of two samples; without it a large window would alarm at the calibration's own noise.

    :param hits: ``[q]`` OOD pairs of each query.
    :param totals: ``[q]`` pairs of each query; queries without pairs do not count.
    :param alpha: the share to be expected.
    :param calibration_queries: queries that the threshold was taken from; None takes alpha as exact.
    :return: one-sided p-value; 1 without any query.
    """
    residuals = np.asarray(hits, dtype=np.float64) - alpha * np.asarray(totals, dtype=np.float64)
    residuals = residuals[np.asarray(totals) > 0]
    squares = float(residuals @ residuals)
    if squares == 0:
        return 1.0
    if calibration_queries:
        squares *= 1 + len(residuals) / calibration_queries
    return 0.5 * math.erfc(float(residuals.sum()) / math.sqrt(2 * squares))
