"""The decision to keep a stage: paired gains in nDCG against their noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.stats.bootstrap import Interval, bootstrap_mean, bootstrap_ratio

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """The decision to keep a stage.

    :param gain: mean with its interval; with several sets the mean of their means.
    :param error: its standard error; infinite if a set has fewer than two queries.
    """

    gain: Interval
    error: float
    kept: bool


def judge_gains(sets: Sequence[Floats], *, seed: int) -> Verdict:
    """Decide by the gains of dev queries whether a stage is kept; not without any gains.

    :param sets: for each dev set the gain of each query, ``[q]``; non-empty sets have equal weights.
    """
    filled = [gains for gains in sets if len(gains)]
    if not filled:
        return Verdict(bootstrap_mean(np.zeros(0)), math.inf, False)
    errors = [float(g.std(ddof=1) / np.sqrt(len(g))) if len(g) > 1 else math.inf for g in filled]
    if len(filled) == 1:
        return Verdict(bootstrap_mean(filled[0], seed=seed), errors[0], bool(filled[0].mean() > errors[0]))
    weight = np.concatenate([np.full(len(g), 1 / (len(filled) * len(g))) for g in filled])
    gain = bootstrap_ratio(np.concatenate(filled) * weight, weight, seed=seed)
    error = math.sqrt(sum(e * e for e in errors)) / len(filled)
    return Verdict(gain, error, bool(gain.mean > error))
