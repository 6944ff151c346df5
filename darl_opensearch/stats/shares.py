"""Shares of pairs, with intervals and a test that treat queries, not pairs, as independent units."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A share and its 95 % interval.

    :param value: None without pairs.
    :param low: None below two clusters.
    :param high: None below two clusters.
    :param total: number of pairs, estimated if they were sampled.
    """

    value: float | None
    low: float | None
    high: float | None
    total: float
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """Render for machines."""
        return dataclasses.asdict(self)

    def against(self, expected: float) -> str:
        """Compare with an expected share.

        :return: ``above``, ``below``, ``as expected``, or ``unknown`` without an interval.
        """
        if self.low is None or self.high is None:
            return "unknown"
        if self.low > expected:
            return "above"
        return "below" if self.high < expected else "as expected"


@dataclass(frozen=True)
class ClusterSums:
    """Sums over clusters with pairs, from which a store that adds up by itself gives a share and its test.

    :param clusters: number of clusters with a positive total.
    :param hits: sum of their hits.
    :param totals: sum of their totals.
    :param hits_squared: sum of the squares of their hits.
    :param products: sum of hits times total.
    :param totals_squared: sum of the squares of their totals.
    """

    clusters: int
    hits: float
    totals: float
    hits_squared: float
    products: float
    totals_squared: float

    def share(self) -> Share:
        """Estimate the share, as :func:`share_of` does."""
        if not self.clusters:
            return Share(None, None, None, 0.0, 0)
        share = min(max(self.hits / self.totals, 0.0), 1.0)
        return _share(share, self.clusters, self.totals, self._residuals(share))

    def test(self, alpha: float) -> float:
        """Test whether the share is above alpha, as :func:`share_test` does for an exact alpha."""
        squares = self._residuals(alpha)
        return 0.5 * math.erfc((self.hits - alpha * self.totals) / math.sqrt(2 * squares)) if squares else 1.0

    def _residuals(self, share: float) -> float:
        """Sum the squares of ``hits - share * total``; what is left of rounding is 0."""
        squares = self.hits_squared - 2 * share * self.products + share**2 * self.totals_squared
        scale = self.hits_squared + share**2 * self.totals_squared
        return squares if squares > 1e-12 * scale else 0.0


def share_of(hits: ArrayLike, totals: ArrayLike) -> Share:
    """Estimate a share from clusters of different sizes.

    The ratio of sums, with its linearised variance between clusters (Cochran 1977, *Sampling Techniques*,
    section 2.11) and a Wilson interval at the effective sample size that this variance implies (as Korn and Graubard
    1998 do with Clopper–Pearson): near 0, where false-alarm rates lie, a symmetric interval would miss too often.
    Without hits each cluster counts as one observation.

    :param hits: ``[c]`` weighted count of hits per cluster.
    :param totals: ``[c]`` weighted count of pairs per cluster.
    """
    y, x = np.asarray(hits, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    keep = x > 0
    y, x = y[keep], x[keep]
    clusters, total = len(x), float(x.sum())
    if not clusters:
        return Share(None, None, None, 0.0, 0)
    share = min(max(float(y.sum() / total), 0.0), 1.0)
    residuals = y - share * x
    return _share(share, clusters, total, float(residuals @ residuals))


def _share(share: float, clusters: int, total: float, squares: float) -> Share:
    """Give a share its interval.

    :param squares: sum over the clusters of ``(hits - share * total)²``.
    """
    if clusters < 2:
        return Share(share, None, None, total, clusters)
    variance = clusters / (clusters - 1) * squares / total**2
    binomial = share * (1 - share)
    effective = binomial / variance if variance > 0 and binomial > 0 else float(clusters)
    effective = max(min(effective, total), 1.0)
    quantile = student_t975(clusters - 1)
    # Wilson's interval for `effective` observations.
    shift = quantile**2 / effective
    middle = (share + shift / 2) / (1 + shift)
    half = quantile / (1 + shift) * math.sqrt(binomial / effective + shift / (4 * effective))
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return Share(share, min(low, share), max(high, share), total, clusters)


def share_test(hits: ArrayLike, totals: ArrayLike, alpha: float, *, calibration_queries: int | None = None) -> float:
    """Test whether a share of OOD pairs is above alpha, with queries as the independent units.

    The score test of a binomial share with variance between clusters (Guo et al. 2005, *Statistics in Medicine*
    24:3479, for the robust score test): residuals ``u = hits - alpha * totals`` of the queries, and
    ``z = sum(u) / sqrt(sum(u²))`` against the normal distribution. The variance is taken around alpha, not around
    the observed share, so ``z`` never exceeds the root of the number of queries (Efron 1969, *JASA* 64:1278, on why
    such a ratio has no longer tail than the normal), and few queries never give a p-value of 0.

    The threshold's own error depends on the number of calibration queries: one from 100 queries may flag 6 % of the
    same traffic for good. So the variance grows by ``1 + queries / calibration_queries``, as for the difference of
    two samples; otherwise a large window would raise alarms about the noise of the calibration.

    :param hits: ``[q]`` OOD pairs per query.
    :param totals: ``[q]`` pairs per query; queries without pairs do not count.
    :param calibration_queries: queries that the threshold was calibrated on; None: alpha is exact.
    :return: one-sided p-value; 1 without queries.
    """
    residuals = np.asarray(hits, dtype=np.float64) - alpha * np.asarray(totals, dtype=np.float64)
    residuals = residuals[np.asarray(totals) > 0]
    squares = float(residuals @ residuals)
    if squares == 0:
        return 1.0
    if calibration_queries:
        squares *= 1 + len(residuals) / calibration_queries
    return 0.5 * math.erfc(float(residuals.sum()) / math.sqrt(2 * squares))


def student_t975(freedom: int) -> float:
    """Compute the 97.5 % point of Student's t (Abramowitz and Stegun 26.7.5; exact for 1 and 2 degrees).

    :param freedom: degrees of freedom, at least 1.
    """
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z, v = Z95, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )
