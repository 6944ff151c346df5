"""Figures that are functions of sums over queries, resampled together.

A mean, a share, macro-F1, kappa, the calibration error: each can be had from sums of a few numbers a query. So one
resampling of the queries serves all of them, and a difference of two parts has an interval as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.evaluate.bootstrap import Interval

Floats = NDArray[np.float64]
_BLOCK = 200  # resamples made at a time: all of them at once would need gigabytes for many queries


@dataclass(frozen=True)
class Figure:
    """A figure of some queries.

    :param sums: ``[q, m]`` what each query adds.
    :param value: from totals ``[..., m]`` to the figure ``[...]``; nan where there is none.
    :param counts: ``[q]`` whether a query counts at all.
    """

    sums: Floats
    value: Callable[[Floats], Floats]
    counts: NDArray[np.bool_]

    @property
    def point(self) -> float:
        """The figure of all queries."""
        return float(self.value(self.sums.sum(0)))

    @property
    def n(self) -> int:
        """Queries that count."""
        return int(self.counts.sum())


def mean_over_queries(values: Floats) -> Figure:
    """Make a figure of one value a query.

    :param values: ``[q]``, nan for a query that has none and is left out.
    """
    there = ~np.isnan(values)
    return Figure(np.stack([np.where(there, values, 0.0), there.astype(np.float64)], 1), ratio, there)


def share_of_pairs(values: Floats, query_index: NDArray[np.int64], n_queries: int) -> Figure:
    """Make a figure of one value a pair, clustered by query.

    :param values: ``[n]``.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    """
    sums = np.stack([sum_by_query(values, query_index, n_queries), _pairs(query_index, n_queries)], 1)
    return Figure(sums, ratio, sums[:, 1] > 0)


def sum_by_query(values: Floats, query_index: NDArray[np.int64], n_queries: int) -> Floats:
    """Add values up within each query.

    :param values: ``[n]``.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    :return: ``[n_queries]``.
    """
    return np.bincount(query_index, weights=values, minlength=n_queries).astype(np.float64)


def ratio(totals: Floats) -> Floats:
    """Divide the first total by the second.

    :param totals: ``[..., 2]``.
    :return: ``[...]``, nan where there is nothing to divide by.
    """
    empty = totals[..., 1] <= 0
    return np.where(empty, np.nan, totals[..., 0] / np.where(empty, 1.0, totals[..., 1]))


@dataclass(frozen=True)
class Resampled:
    """A figure and what it was in each resample.

    :param draws: ``[d]`` of each resample.
    """

    point: float
    draws: Floats
    n: int

    def interval(self) -> Interval:
        """Cut off 2.5 % on each side (percentile bootstrap, Efron 1979).

        :return: the interval; nan bounds below two queries, of which nothing can be resampled.
        """
        values = self.draws[~np.isnan(self.draws)]
        if self.n < 2 or not len(values):
            return Interval(self.point, float("nan"), float("nan"), self.n)
        low, high = np.quantile(values, [0.025, 0.975])
        return Interval(self.point, float(low), float(high), self.n)

    def minus(self, other: Resampled) -> Resampled:
        """Take the difference to a figure of other queries, resampled on their own.

        :return: the difference; it counts as many queries as the smaller of the two.
        """
        return Resampled(self.point - other.point, self.draws - other.draws, min(self.n, other.n))


def resample(figures: Mapping[str, Figure], *, draws: int, seed: int | Sequence[int]) -> dict[str, Resampled]:
    """Resample queries, the same ones for every figure.

    :return: for each figure, its value in every resample.
    """
    if not figures:
        return {}
    sums = np.concatenate([figure.sums for figure in figures.values()], axis=1)
    ends = np.cumsum([figure.sums.shape[1] for figure in figures.values()])[:-1]
    parts = [np.split(counts @ sums, ends, axis=1) for counts in query_counts(len(sums), draws=draws, seed=seed)]
    found = {}
    for place, (name, figure) in enumerate(figures.items()):
        values = [figure.value(part[place]) for part in parts]
        found[name] = Resampled(figure.point, np.concatenate(values) if values else np.zeros(0), figure.n)
    return found


def query_counts(n_queries: int, *, draws: int, seed: int | Sequence[int]) -> Iterator[Floats]:
    """Say how often each query is in each resample.

    :yields: blocks of ``[d, n_queries]``, ``draws`` rows together; none where there is no query.
    """
    if n_queries == 0:
        return
    rng = np.random.default_rng(seed)
    even = np.full(n_queries, 1 / n_queries)
    for start in range(0, draws, _BLOCK):
        yield rng.multinomial(n_queries, even, size=min(_BLOCK, draws - start)).astype(np.float64)


def _pairs(query_index: NDArray[np.int64], n_queries: int) -> Floats:
    return np.bincount(query_index, minlength=n_queries).astype(np.float64)
