"""Whether a stage stays: paired gains in nDCG against their own noise."""

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
    """What the gains say.

    :param gain: mean with its interval; with several sets the mean of their means.
    :param error: its standard error; infinite where a set has fewer than two queries.
    """

    gain: Interval
    error: float
    kept: bool


def judge_gains(sets: Sequence[Floats], *, seed: int) -> Verdict:
    """Judge a stage by the gains of its dev queries.

    :param sets: for each dev set ``[q]`` gain of each query; each set weighs alike, empty ones not at all.
    :return: the verdict; no gain at all is a no.
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
