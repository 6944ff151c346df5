"""Paired comparisons over queries: difference, interval, p-value and sample size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.stats.bootstrap import LEVEL, Interval, bootstrap_mean

DRAWS = 10_000
Z_BOUND = 1.959964  # lower end of a 95 % interval, rounded as in earlier gate reports
Z_HALVED = 2.241403  # the same of two tests that share its level
Z_POWER = 0.841621  # power of 80 %
_BLOCK = 1000  # sign patterns at a time: with many queries all of them would need gigabytes


@dataclass(frozen=True)
class Claim:
    """A paired difference, ours minus theirs, with its interval and p-value over queries.

    :param interval: mean and bootstrap interval.
    :param p: two-sided, for no difference.
    """

    interval: Interval
    p: float


def compare_paired(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Claim:
    """Compare two systems query by query.

    The interval resamples queries (percentile bootstrap); the p-value flips signs of the differences at random
    (Fisher's randomisation test: Smucker et al. 2007, doi:10.1145/1321440.1321528).

    :param ours: ``[q]``, nan where a query has no value.
    :param theirs: ``[q]``, nan in the same places.
    :param level: of the interval, 0.05 for one of 95 %.
    :return: the claim; with fewer than two values nan bounds, and p is 1.
    """
    difference = ours - theirs
    difference = difference[~np.isnan(difference)]
    rng = np.random.default_rng([seed, 1])
    extreme, least = 0, abs(difference.sum()) * (1 - 1e-12)
    for start in range(0, draws, _BLOCK):
        size = (min(_BLOCK, draws - start), len(difference))
        signs = rng.integers(0, 2, size=size, dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ difference) >= least).sum())
    interval = bootstrap_mean(difference, draws=draws, seed=seed, level=level)
    if len(difference) < 2:
        interval = Interval(interval.mean, math.nan, math.nan, interval.n)
    return Claim(interval, (extreme + 1) / (draws + 1))


@dataclass(frozen=True)
class Power:
    """Power of a paired comparison, by the normal approximation from the observed differences.

    :param sd: standard deviation of the differences over queries; nan below two queries.
    :param detectable: smallest distance of the true mean from the bound that this many queries detect with 80 % power.
    :param needed: queries that detect the observed mean with 80 % power; None if the mean is not above the bound.
    """

    sd: float
    detectable: float
    needed: int | None


def power(differences: NDArray[np.float64], bound: float, *, z: float = Z_BOUND) -> Power:
    """Estimate how many queries put the lower end of an interval above a bound.

    The usual sample size of a one-sided paired test (Sakai 2016, doi:10.1145/2911451.2911492, for ranking measures):
    ``((z + z_.8) sd / (mean - bound))^2``.

    :param differences: ``[q]`` new minus old; nan for queries without a value.
    :param z: normal quantile of the interval's lower end.
    """
    values = differences[~np.isnan(differences)]
    if len(values) < 2:
        return Power(math.nan, math.nan, None)
    sd, distance = float(values.std(ddof=1)), float(values.mean()) - bound
    needed = needed_queries(sd, distance, z=z) if distance > 0 else None
    return Power(sd, (z + Z_POWER) * sd / math.sqrt(len(values)), needed)


def needed_queries(sd: float, distance: float, *, z: float) -> int:
    """Compute how many queries show with 80 % power that a mean is above a bound.

    :param sd: standard deviation of the differences over queries.
    :param distance: of the mean from the bound, above 0.
    :param z: normal quantile of the interval's lower end.
    """
    return math.ceil(((z + Z_POWER) * sd / distance) ** 2)
