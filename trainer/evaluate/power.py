"""How many queries a paired comparison needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_BOUND = 1.959964  # of a 95 % interval's lower bound
Z_POWER = 0.841621  # of being right 4 times in 5


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
    :param bound: what the mean is to exceed.
    :return: the power; at least as many queries as there are never suffice where they did not.
    """
    values = differences[~np.isnan(differences)]
    if len(values) < 2:
        return Power(math.nan, math.nan, None)
    sd, distance = float(values.std(ddof=1)), float(values.mean()) - bound
    factor = (Z_BOUND + Z_POWER) * sd
    needed = math.ceil((factor / distance) ** 2) if distance > 0 else None
    return Power(sd, factor / math.sqrt(len(values)), needed)
