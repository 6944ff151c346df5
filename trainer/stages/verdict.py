"""The decision to keep a stage: paired changes of every query's RPS and nDCG against their noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.stats.bootstrap import Interval, bootstrap_mean, bootstrap_ratio

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """Mean gain in a figure; positive is better.

    :param interval: mean with its interval; with several sets the mean of their means.
    :param error: its standard error; infinite if a set has fewer than two queries.
    """

    interval: Interval
    error: float

    @property
    def clear(self) -> bool:
        """Whether it exceeds one standard error."""
        return self.interval.mean > self.error

    @property
    def tolerable(self) -> bool:
        """Whether it is no loss beyond one standard error."""
        return self.interval.mean >= -self.error


@dataclass(frozen=True)
class Verdict:
    """The decision to keep a stage: a clear gain in grades (RPS) or in order (nDCG), and no clear loss in either."""

    rps: Gain
    ndcg: Gain

    @property
    def kept(self) -> bool:
        """Whether the stage is kept."""
        both = self.rps, self.ndcg
        return any(gain.clear for gain in both) and all(gain.tolerable for gain in both)


def average_gains(sets: Sequence[Floats], *, seed: int) -> Gain:
    """Average the gains of queries; without any, the mean is NaN.

    :param sets: for each dev set the gain of each query, ``[q]``; non-empty sets have equal weights.
    """
    filled = [gains for gains in sets if len(gains)]
    if not filled:
        return Gain(bootstrap_mean(np.zeros(0)), math.inf)
    errors = [float(g.std(ddof=1) / np.sqrt(len(g))) if len(g) > 1 else math.inf for g in filled]
    if len(filled) == 1:
        return Gain(bootstrap_mean(filled[0], seed=seed), errors[0])
    weight = np.concatenate([np.full(len(g), 1 / (len(filled) * len(g))) for g in filled])
    error = math.sqrt(sum(e * e for e in errors)) / len(filled)
    return Gain(bootstrap_ratio(np.concatenate(filled) * weight, weight, seed=seed), error)
