"""Coverage of rows by chosen ones: the objective of herding, and greedy selection by its gains.

Generalised coverage (Bae et al. 2024, arXiv:2407.12212): ``sum over x of w(x) * max over chosen s of k(x, s)``. It is
monotone and submodular, so greedy selection is within ``1 - 1/e`` of the optimum (Nemhauser et al. 1978). Gains only
fall as more is chosen, so :func:`choose_greedily` can leave most of them stale (Minoux 1978).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.dasa.neighbours import find_nearest
from trainer.dasa.purse import Purse
from trainer.dasa.registry import Candidates, Floats

Weights = NDArray[np.float64]
REFRESHED = 32  # stale gains recomputed at a time
NEGLIGIBLE = 1e-6  # a gain below this share of the first one is rounding: everything is covered


def kernel(cosines: Floats, bandwidth: float) -> Floats:
    """Radial basis function of unit vectors.

    :param bandwidth: the distance at which the kernel is ``exp(-1/2)``.
    :return: ``exp(-distance^2 / (2 * bandwidth^2))``, with ``distance^2 = 2 - 2 * cosine``.
    """
    similarities: Floats = np.exp((np.minimum(cosines, 1.0) - 1.0) / np.float32(bandwidth**2))
    return similarities


def choose_bandwidth(kth_cosines: Floats) -> float:
    """Set the bandwidth to the median distance to the k-th nearest row.

    :param kth_cosines: ``[n]``, each row's cosine with its k-th nearest other row; may be empty.
    :return: the median distance, 1 without rows; at least 0.05, below which float32 cannot tell twins apart.
    """
    if not len(kth_cosines):
        return 1.0
    return max(float(np.median(np.sqrt(np.maximum(2.0 - 2.0 * kth_cosines, 0.0)))), 0.05)


class Coverage(Protocol):
    """Gains of rows that could be chosen next."""

    def all_gains(self) -> Weights:
        """Compute every row's gain, ``[n]``."""

    def gains(self, rows: NDArray[np.int64]) -> Weights:
        """Compute the gains of some rows."""

    def add(self, row: int) -> None:
        """Choose a row."""


class DenseCoverage:
    """Coverage over all pairs of rows, ``4 * n * n`` bytes.

    :param similarities: ``[n, n]`` float32, the kernel of each pair of rows.
    :param weights: ``[n]``, the value of covering each row.
    :param covered: ``[n]`` float32 in [0, 1], initial coverage of each row.
    """

    def __init__(self, similarities: Floats, weights: Weights, covered: Floats) -> None:
        self._similarities, self._weights, self._covered = similarities, weights, covered.copy()

    def all_gains(self) -> Weights:
        """Compute every row's gain."""
        n = len(self._weights)
        blocks = [self.gains(np.arange(start, min(start + 256, n))) for start in range(0, n, 256)]
        return np.concatenate([np.empty(0), *blocks])

    def gains(self, rows: NDArray[np.int64]) -> Weights:
        """Compute the gains of some rows."""
        more = self._similarities[rows] - self._covered
        gained: Weights = np.maximum(more, 0.0, out=more) @ self._weights
        return gained

    def add(self, row: int) -> None:
        """Choose a row."""
        np.maximum(self._covered, self._similarities[row], out=self._covered)


class SparseCoverage:
    """Coverage by nearest neighbours only: rows farther away would add little, and count 0.

    :param rows: ``[n, k]``, neighbours of each row, with or without the row itself; -1 fills up.
    :param similarities: ``[n, k]`` float32, their kernel.
    """

    def __init__(self, rows: NDArray[np.int32], similarities: Floats, weights: Weights, covered: Floats) -> None:
        n, k = rows.shape
        self._weights, self._covered = weights, covered.copy()
        # Inverted: for each covering row, the rows that it covers.
        valid = np.flatnonzero((rows.ravel() >= 0) & (rows.ravel() != np.repeat(np.arange(n, dtype=np.int32), k)))
        covering = rows.ravel()[valid]
        order = valid[np.argsort(covering, kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(covering, minlength=n))])
        self._targets = (order // k).astype(np.int32)
        self._similarities = similarities.ravel()[order]

    def all_gains(self) -> Weights:
        """Compute every row's gain."""
        n = len(self._weights)
        own_gain = self._weights * (1.0 - self._covered)
        more = np.maximum(self._similarities - self._covered[self._targets], 0.0) * self._weights[self._targets]
        covering = np.repeat(np.arange(n, dtype=np.int32), np.diff(self._starts))
        return own_gain + np.bincount(covering, weights=more, minlength=n)

    def gains(self, rows: NDArray[np.int64]) -> Weights:
        """Compute the gains of some rows."""
        return np.array([self._gain(int(row)) for row in rows])

    def add(self, row: int) -> None:
        """Choose a row."""
        part = slice(self._starts[row], self._starts[row + 1])
        targets = self._targets[part]
        self._covered[targets] = np.maximum(self._covered[targets], self._similarities[part])
        self._covered[row] = 1.0

    def _gain(self, row: int) -> float:
        part = slice(self._starts[row], self._starts[row + 1])
        targets = self._targets[part]
        more = np.maximum(self._similarities[part] - self._covered[targets], 0.0)
        own_gain = self._weights[row] * (1.0 - self._covered[row])
        return float(more @ self._weights[targets] + own_gain)


def measure_coverage(known: Floats, features: Floats, bandwidth: float) -> Floats:
    """Measure how well rows are covered by the training set.

    :param known: ``[m, h]`` float32 of unit length; may be empty.
    :param features: ``[n, h]`` float32 of unit length.
    :return: ``[n]`` float32, the kernel with the nearest known row; 0 without known rows.
    """
    if not len(known):
        return np.zeros(len(features), dtype=np.float32)
    return kernel(find_nearest(known, features, 1)[0][:, 0], bandwidth)


def choose_greedily(coverage: Coverage, rows: NDArray[np.int64], candidates: Candidates, budget: int) -> list[int]:
    """Choose by gain per pair to label, until the budget is spent or everything is covered.

    :param coverage: over the rows that may be chosen, numbered from 0.
    :param rows: the corresponding rows of ``candidates``.
    :param budget: maximum pairs; the first query that does not fit ends the selection.
    :return: rows of ``candidates`` in order of choice; ties go to the first.
    """
    if not len(rows):
        return []
    purse = Purse(candidates, budget)
    cost = candidates.cost[rows].astype(np.float64)
    bounds = coverage.all_gains() / cost  # upper bounds of the gain per pair
    fresh = np.ones(len(rows), dtype=np.bool_)
    floor = NEGLIGIBLE * float(np.max(bounds * cost))
    while True:
        best = int(np.argmax(bounds))
        if bounds[best] * cost[best] <= floor:
            return purse.chosen
        if not fresh[best]:
            stale = _largest(np.where(fresh, -np.inf, bounds), REFRESHED)
            bounds[stale] = coverage.gains(stale) / cost[stale]
            fresh[stale] = True
            continue
        if purse.has_room(int(rows[best])):
            if not purse.take(int(rows[best])):
                return purse.chosen
            coverage.add(best)
            fresh[:] = False
        bounds[best] = -np.inf


def _largest(values: Weights, count: int) -> NDArray[np.int64]:
    if len(values) > count:
        largest = np.argpartition(-values, count)[:count]
    else:
        largest = np.arange(len(values))
    return largest[np.isfinite(values[largest])]
