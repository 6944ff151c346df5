"""The bootstrap over queries: pairs of a query are not independent, so whole queries are resampled.

Means, shares, macro-F1, kappa and the calibration error are functions of per-query sums, so all of them share the same
resamples, and differences between parts have intervals as well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.stats.numbers import round_figure

Floats = NDArray[np.float64]
LEVEL = 0.05  # share of intervals that miss the true value
_BLOCK = 200  # resamples at a time: with many queries all of them would need gigabytes


@dataclass(frozen=True)
class Interval:
    """A figure with its interval, of 95 % unless another level is named; nan if undefined."""

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | None]:
        """Render with five decimals, null for nan."""
        return {name: round_figure(value) for name, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class Figure:
    """A figure as a function of sums over queries.

    :param sums: ``[q, *shape]``, the terms of each query.
    :param value: maps totals ``[..., *shape]`` to the figure ``[...]``, nan if undefined.
    :param counts: ``[q]`` whether a query counts.
    """

    sums: Floats
    value: Callable[[Floats], Floats]
    counts: NDArray[np.bool_]

    @property
    def point(self) -> float:
        """The figure over all queries."""
        return float(self.value(self.sums.sum(0)))

    @property
    def n(self) -> int:
        """Queries that count."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class Resampled:
    """A figure and its value in each resample.

    :param draws: ``[d]``.
    """

    point: float
    draws: Floats
    n: int

    def interval(self, level: float = LEVEL) -> Interval:
        """Compute the percentile interval; nan bounds below two queries."""
        low, high = percentiles(self.draws, level) if self.n > 1 else (math.nan, math.nan)
        return Interval(self.point, low, high, self.n)

    def minus(self, other: Resampled) -> Resampled:
        """Subtract another figure, resample by resample; ``n`` is the smaller of the two."""
        return Resampled(self.point - other.point, self.draws - other.draws, min(self.n, other.n))


def percentiles(draws: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Compute the 2.5 % and 97.5 % quantiles (percentile bootstrap, Efron 1979), ignoring nan; nan for no values.

    :param level: what both tails have together.
    """
    values = draws[~np.isnan(draws)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [level / 2, 1 - level / 2])
    return float(low), float(high)


def p_of_zero(draws: Floats) -> float:
    """Compute the two-sided p-value of 0: twice the smaller share of resamples on one side of it, ignoring nan."""
    values = draws[~np.isnan(draws)]
    tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(values) + 1))


def draw_counts(n_queries: int, *, draws: int, seed: int | Sequence[int]) -> Iterator[Floats]:
    """Draw queries with replacement.

    :yields: blocks of ``[d, n_queries]`` counts of each query in each resample; none without queries.
    """
    if n_queries == 0:
        return
    rng = np.random.default_rng(seed)
    even = np.full(n_queries, 1 / n_queries)
    for start in range(0, draws, _BLOCK):
        yield rng.multinomial(n_queries, even, size=min(_BLOCK, draws - start)).astype(np.float64)


def resample(figures: Mapping[str, Figure], *, draws: int, seed: int | Sequence[int]) -> dict[str, Resampled]:
    """Resample queries, with the same resamples for every figure."""
    if not figures:
        return {}
    n_queries = len(next(iter(figures.values())).sums)
    shapes = [figure.sums.shape[1:] for figure in figures.values()]
    widths = [math.prod(shape) for shape in shapes]
    flat = np.concatenate(
        [figure.sums.reshape(n_queries, width) for figure, width in zip(figures.values(), widths, strict=True)], axis=1
    )
    ends = np.cumsum(widths)[:-1]
    values: dict[str, list[Floats]] = {name: [np.zeros(0)] for name in figures}
    for counts in draw_counts(n_queries, draws=draws, seed=seed):
        totals = np.split(counts @ flat, ends, axis=1)
        for (name, figure), shape, total in zip(figures.items(), shapes, totals, strict=True):
            values[name].append(figure.value(total.reshape(len(counts), *shape)))
    return {name: Resampled(f.point, np.concatenate(values[name]), f.n) for name, f in figures.items()}


def mean_over_queries(values: Floats) -> Figure:
    """Make the mean of one value per query a figure.

    :param values: ``[q]``; queries with nan are left out.
    """
    has_value = ~np.isnan(values)
    return Figure(np.stack([np.where(has_value, values, 0.0), has_value.astype(np.float64)], 1), ratio, has_value)


def share_of_pairs(values: Floats, query_index: NDArray[np.int64], n_queries: int) -> Figure:
    """Make the mean of one value per pair a figure, clustered by query.

    :param values: ``[n]``.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    """
    sums = np.stack([np.bincount(query_index, each, minlength=n_queries) for each in (values, None)], 1)
    return Figure(sums.astype(np.float64), ratio, sums[:, 1] > 0)


def ratio(totals: Floats) -> Floats:
    """Divide the first total by the second, ``[..., 2]`` to ``[...]``; nan unless the second is above 0."""
    empty = totals[..., 1] <= 0
    return np.where(empty, np.nan, totals[..., 0] / np.where(empty, 1.0, totals[..., 1]))


def bootstrap_mean(values: NDArray[np.floating], *, draws: int = 2000, seed: int = 0, level: float = LEVEL) -> Interval:
    """Compute a mean over queries and its interval; pass differences for a paired comparison.

    :param values: ``[q]``.
    :return: the interval; nan for no values.
    """
    return bootstrap_ratio(values, np.ones(len(values)), draws=draws, seed=seed, level=level)


def bootstrap_ratio(
    numerator: NDArray[np.floating], denominator: NDArray[np.floating], *, draws: int = 2000, seed: int = 0,
    level: float = LEVEL,
) -> Interval:  # fmt: skip
    """Compute a ratio of sums over queries and its interval, such as a share of pairs clustered by query.

    :param numerator: ``[q]``, such as flagged pairs per query.
    :param denominator: ``[q]``, such as pairs per query.
    :return: the interval; nan for no values, a point for one.
    """
    sums = np.stack([numerator, denominator], axis=1).astype(np.float64)
    figure = Figure(sums, ratio, np.ones(len(sums), dtype=bool))
    resampled = resample({"ratio": figure}, draws=draws, seed=seed)["ratio"]
    return Interval(resampled.point, *percentiles(resampled.draws, level), resampled.n)
