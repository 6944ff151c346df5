"""Boundaries for looking at a growing sample several times, at the level of a single look.

The level is spent as in Lan and DeMets 1983 (doi:10.1093/biomet/70.3.659), by their function of the O'Brien-Fleming
type: next to nothing at the first look, nearly all of it at the last. The statistic times the root of the share seen is
a Brownian motion, with drift if there is an effect; the density of the paths that go on is carried from look to look
(Armitage, McPherson and Rowe 1969, doi:10.2307/2343787).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NORMAL = NormalDist()
POWER = 0.8  # that samples are planned for
_NODES = 401  # of the grid
_REACH = 8.0  # standard deviations that it covers
_exceed = np.vectorize(lambda x: 0.5 * math.erfc(x / math.sqrt(2)), otypes=[np.float64])


@dataclass(frozen=True)
class Stops:
    """Where a sample stops.

    :param above: probability of each look to be the first whose statistic exceeds its boundary.
    :param share: of the planned sample, that is seen on average.
    """

    above: tuple[float, ...]
    share: float

    @property
    def power(self) -> float:
        """Probability that any boundary is exceeded."""
        return sum(self.above)


def find_boundaries(shares: Sequence[float], level: float) -> list[float]:
    """Compute what the statistic, standard normal without an effect, must exceed at each look.

    :param shares: of the planned sample, seen at each look; ascending to 1.
    :param level: one-sided, of all looks together.
    """
    paths, boundaries, spent = _Paths(0.0), list[float](), 0.0
    for share in shares:
        due = _spend(share, level)
        low, high = 0.0, 40.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (middle, high) if paths.above(share, middle) > due - spent else (low, middle)
        boundaries.append(high)
        paths.go_on(share, -math.inf, high)
        spent = due
    return boundaries


def find_stops(shares: Sequence[float], boundaries: Sequence[float], drift: float, *, least: float = 0.0) -> Stops:
    """Compute where a sample stops.

    :param drift: expected statistic of the whole sample.
    :param least: :func:`find_chance` below which a look stops for futility; 0: none does.
    """
    paths, above, seen, left = _Paths(drift), list[float](), 0.0, 1.0
    for share, boundary in zip(shares, boundaries, strict=True):
        last = share == shares[-1]
        futile = -math.inf if last or not least else _find_futile(share, boundaries[-1], least)
        above.append(paths.above(share, boundary))
        paths.go_on(share, futile, boundary)
        goes_on = 0.0 if last else paths.mass.sum()
        seen, left = seen + share * (left - goes_on), goes_on
    return Stops(tuple(above), seen)


def find_chance(statistic: float, share: float, boundary: float) -> float:
    """Compute the chance that the statistic of the whole sample will exceed its boundary (predictive power).

    Spiegelhalter, Freedman and Blackburn 1986 (doi:10.1016/0197-2456(86)90003-6), with a flat prior: what is seen
    is all that is known of the effect.

    :param share: of the planned sample, that is seen.
    :param boundary: of the last look.
    """
    if share >= 1:
        return float(statistic > boundary)
    return NORMAL.cdf((statistic - boundary * math.sqrt(share)) / math.sqrt(1 - share))


def find_inflation(shares: Sequence[float], level: float, *, power: float = POWER, least: float = 0.0) -> float:
    """Compute how much larger a sample must be planned for the power of a single look.

    :param level: one-sided.
    :param least: as of :func:`find_stops`.
    """
    boundaries = find_boundaries(shares, level)
    fixed = NORMAL.inv_cdf(1 - level) + NORMAL.inv_cdf(power)
    low, high = fixed, 2 * fixed
    while high - low > 1e-5:
        middle = (low + high) / 2
        reached = find_stops(shares, boundaries, middle, least=least).power >= power
        low, high = (low, middle) if reached else (middle, high)
    return max(1.0, (high / fixed) ** 2) if len(shares) > 1 else 1.0


def _spend(share: float, level: float) -> float:
    """Compute how much of a one-sided level is spent by a look."""
    return level if share >= 1 else float(2 * _exceed(NORMAL.inv_cdf(1 - level / 2) / math.sqrt(share)))


def _find_futile(share: float, boundary: float, least: float) -> float:
    """Compute the statistic whose :func:`find_chance` is ``least``."""
    return boundary * math.sqrt(share) + NORMAL.inv_cdf(least) * math.sqrt(1 - share)


class _Paths:
    """Brownian motion that has not stopped, as mass on points."""

    def __init__(self, drift: float) -> None:
        self.drift, self.share = drift, 0.0
        self.points, self.mass = np.zeros(1), np.ones(1)

    def _expect(self, share: float) -> tuple[Floats, float]:
        """Return means and standard deviation of the motion at a later share."""
        step = share - self.share
        return self.points + self.drift * step, math.sqrt(step)

    def above(self, share: float, statistic: float) -> float:
        """Compute the probability that the motion goes on to a share and exceeds a statistic there."""
        mean, sd = self._expect(share)
        return float(self.mass @ _exceed((statistic * math.sqrt(share) - mean) / sd))

    def go_on(self, share: float, low: float, high: float) -> None:
        """Keep what lies between two statistics at a share."""
        mean, sd = self._expect(share)
        root, middle = math.sqrt(share), self.drift * share
        first, last = (
            min(max(end * root, middle - _REACH * root), middle + _REACH * root) for end in (low, high)
        )  # fmt: skip
        points = np.linspace(first, last, _NODES)
        weights = np.full(_NODES, (last - first) / (_NODES - 1))
        weights[[0, -1]] /= 2
        density = np.exp(-0.5 * ((points[:, None] - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
        self.share, self.points, self.mass = share, points, weights * (density @ self.mass)
