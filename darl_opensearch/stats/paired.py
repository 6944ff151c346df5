"""Paired comparisons, query by query: the difference, its interval, its p-value, and how many queries it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.stats.bootstrap import Interval, bootstrap_mean

DRAWS = 10_000
Z_BOUND = 1.959964  # of a 95 % interval's lower bound, as the gate has always rounded it
Z_POWER = 0.841621  # of being right 4 times in 5
_BLOCK = 1000  # sign patterns made at a time: all of them at once would need gigabytes for many queries


@dataclass(frozen=True)
class Claim:
    """A paired difference, ours minus theirs, with its uncertainty over queries.

    :param interval: mean and 95 % bootstrap interval.
    :param p: two-sided, of "no difference".
    """

    interval: Interval
    p: float


def paired(ours: NDArray[np.float64], theirs: NDArray[np.float64], *, draws: int = DRAWS, seed: int = 0) -> Claim:
    """Compare two methods query by query.

    The interval resamples queries (percentile bootstrap); the p-value flips signs of the differences at random
    (Fisher's randomisation test: Smucker et al. 2007, doi:10.1145/1321440.1321528).

    :param ours: ``[q]``, nan where a query has no value.
    :param theirs: ``[q]``, nan in the same places.
    :return: the claim; nan bounds and a p of 1 below two values, of which nothing can be resampled.
    """
    difference = ours - theirs
    difference = difference[~np.isnan(difference)]
    rng = np.random.default_rng([seed, 1])
    extreme, least = 0, abs(difference.sum()) * (1 - 1e-12)
    for start in range(0, draws, _BLOCK):
        size = (min(_BLOCK, draws - start), len(difference))
        signs = rng.integers(0, 2, size=size, dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ difference) >= least).sum())
    interval = bootstrap_mean(difference, draws=draws, seed=seed)
    if len(difference) < 2:
        interval = Interval(interval.mean, math.nan, math.nan, interval.n)
    return Claim(interval, (extreme + 1) / (draws + 1))


@dataclass(frozen=True)
class Power:
    """What so many queries can show, by the normal approximation from the observed paired differences.

    :param sd: standard deviation of the differences over queries; nan below two.
    :param detectable: the least distance of the true mean from the bound that as many queries show 4 times in 5.
    :param needed: queries that would show the observed mean 4 times in 5; None where the mean is not beyond the bound.
    """

    sd: float
    detectable: float
    needed: int | None


def power(differences: NDArray[np.float64], bound: float) -> Power:
    """Say how many queries it takes until the lower end of a 95 % interval is above a bound.

    The usual sample size of a one-sided paired test (Sakai 2016, doi:10.1145/2911451.2911492, for ranking measures):
    ``((z_.975 + z_.8) sd / (mean - bound))^2``.

    :param differences: ``[q]`` new minus old, a query each; nan where a query has none.
    :return: the power; at least as many queries as there are never suffice where they did not.
    """
    values = differences[~np.isnan(differences)]
    if len(values) < 2:
        return Power(math.nan, math.nan, None)
    sd, distance = float(values.std(ddof=1)), float(values.mean()) - bound
    factor = (Z_BOUND + Z_POWER) * sd
    needed = math.ceil((factor / distance) ** 2) if distance > 0 else None
    return Power(sd, factor / math.sqrt(len(values)), needed)
