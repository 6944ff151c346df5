"""Intervals from resampled queries: pairs of one query are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 200  # resamples made at a time: all of them at once would need gigabytes for many queries


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """Render with five decimals."""
        return {"mean": round(self.mean, 5), "low": round(self.low, 5), "high": round(self.high, 5), "n": self.n}


def bootstrap_mean(values: NDArray[np.floating], *, draws: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean (Efron 1979); give differences for a paired comparison.

    :param values: ``[q]`` one value a query.
    :return: the interval; nan bounds for no values.
    """
    return bootstrap_ratio(values, np.ones(len(values)), draws=draws, seed=seed)


def bootstrap_ratio(
    numerator: NDArray[np.floating], denominator: NDArray[np.floating], *, draws: int = 2000, seed: int = 0
) -> Interval:
    """Bootstrap of a ratio of sums over queries: a share of pairs, clustered by query.

    :param numerator: ``[q]`` per query, for example its flagged pairs.
    :param denominator: ``[q]`` per query, for example its pairs.
    :return: the interval; nan bounds for no values.
    """
    n = len(numerator)
    if n == 0 or float(np.sum(denominator)) == 0.0:
        return Interval(float("nan"), float("nan"), float("nan"), n)
    rng = np.random.default_rng(seed)
    sums, even = np.stack([numerator, denominator], axis=1), np.full(n, 1 / n)
    totals = np.concatenate(
        [
            rng.multinomial(n, even, size=min(_BLOCK, draws - start)).astype(np.float64) @ sums
            for start in range(0, draws, _BLOCK)
        ]
    )
    ratios = totals[:, 0] / np.maximum(totals[:, 1], 1e-12)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(np.sum(numerator) / np.sum(denominator)), float(low), float(high), n)
