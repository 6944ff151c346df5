"""Claims about paired differences, query by query."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.evaluate.bootstrap import Interval, bootstrap_mean

DRAWS = 10_000
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
