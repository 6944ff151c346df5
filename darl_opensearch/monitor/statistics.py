"""Shares with intervals that know that the pairs of one query are not independent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from darl_opensearch.ood.record import PairRecord

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A share and its 95 % interval.

    :param value: the share; None when there was nothing to count.
    :param low: lower bound; None below two clusters.
    :param high: upper bound; None below two clusters.
    :param total: pairs it is a share of, estimated when they were sampled.
    :param clusters: independent groups the interval rests on.
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

        :param expected: the share to be expected, alpha.
        :return: ``above``, ``below``, ``as expected``, or ``unknown`` without an interval.
        """
        if self.low is None or self.high is None:
            return "unknown"
        if self.low > expected:
            return "above"
        return "below" if self.high < expected else "as expected"


def share_of(hits: ArrayLike, totals: ArrayLike) -> Share:
    """Estimate a share from clusters of different sizes.

    The ratio of sums, with its linearised variance between clusters (Cochran 1977, *Sampling Techniques*,
    section 2.11) and a Wilson interval at the effective sample size which that variance stands for (as Korn
    and Graubard 1998 do with Clopper–Pearson): near 0, where a share of false alarms lies, a symmetric
    interval would miss too often. With no hits at all each cluster counts as one observation.

    :param hits: ``[c]`` weighted count of hits in each cluster.
    :param totals: ``[c]`` weighted count of everything in each cluster.
    """
    y, x = np.asarray(hits, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    keep = x > 0
    y, x = y[keep], x[keep]
    clusters, total = len(x), float(x.sum())
    if not clusters:
        return Share(None, None, None, 0.0, 0)
    share = min(max(float(y.sum() / total), 0.0), 1.0)
    if clusters < 2:
        return Share(share, None, None, total, clusters)
    residuals = y - share * x
    variance = clusters / (clusters - 1) * float(residuals @ residuals) / total**2
    binomial = share * (1 - share)
    effective = binomial / variance if variance > 0 and binomial > 0 else float(clusters)
    effective = max(min(effective, total), 1.0)
    quantile = _student_t975(clusters - 1)
    # Wilson's interval for `effective` observations.
    shift = quantile**2 / effective
    middle = (share + shift / 2) / (1 + shift)
    half = quantile / (1 + shift) * math.sqrt(binomial / effective + shift / (4 * effective))
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return Share(share, min(low, share), max(high, share), total, clusters)


def weighted_share(pairs: Iterable[tuple[Hashable, PairRecord]]) -> Share:
    """Estimate the share of OOD pairs from logged ones, each standing for ``weight`` pairs.

    :param pairs: each with the cluster it belongs to, usually :func:`~darl_opensearch.text.same_text` of its query.
    """
    hits: dict[Hashable, float] = {}
    totals: dict[Hashable, float] = {}
    for cluster, pair in pairs:
        hits[cluster] = hits.get(cluster, 0.0) + pair.weight * pair.is_ood
        totals[cluster] = totals.get(cluster, 0.0) + pair.weight
    return share_of(list(hits.values()), list(totals.values()))


def _student_t975(freedom: int) -> float:
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
