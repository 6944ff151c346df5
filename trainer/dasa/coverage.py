"""How well a set of rows is covered by chosen ones: the objective of herding and its gains.

Generalised coverage (Bae et al. 2024, arXiv:2407.12212): ``sum over x of w(x) * max over chosen s of k(x, s)``. It is
monotone and submodular, so greedy choice is within ``1 - 1/e`` of the best (Nemhauser et al. 1978), and a gain can
only fall as more is chosen, which is what lets :func:`greedy` leave most gains stale (Minoux 1978).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.dasa.neighbours import find_nearest
from trainer.dasa.purse import Purse
from trainer.dasa.registry import Candidates, Floats

Weights = NDArray[np.float64]
REFRESHED = 32  # stale gains worked out at a time
NOTHING = 1e-6  # a gain below this share of the first one is rounding: everything is covered


def kernel(cosines: Floats, bandwidth: float) -> Floats:
    """Radial basis function of unit vectors.

    :param bandwidth: the distance at which the kernel is ``exp(-1/2)``.
    :return: ``exp(-distance^2 / (2 * bandwidth^2))``, with ``distance^2 = 2 - 2 * cosine``.
    """
    similarities: Floats = np.exp((np.minimum(cosines, 1.0) - 1.0) / np.float32(bandwidth**2))
    return similarities


def bandwidth_of(kth_cosines: Floats) -> float:
    """Bandwidth from the data: the median distance to a near neighbour.

    :param kth_cosines: ``[n]``, each row's cosine with its k-th nearest other row; may be empty.
    :return: the median of the distances, 1 where there are none; never below 0.05, where float32 could not tell
        twins apart.
    """
    if not len(kth_cosines):
        return 1.0
    return max(float(np.median(np.sqrt(np.maximum(2.0 - 2.0 * kth_cosines, 0.0)))), 0.05)


class Coverage(Protocol):
    """Gains of rows that could be chosen next."""

    def all_gains(self) -> Weights:
        """Work out every row's gain.

        :return: ``[n]``.
        """

    def gains(self, rows: NDArray[np.int64]) -> Weights:
        """Work out some rows' gains."""

    def add(self, row: int) -> None:
        """Choose a row."""


class DenseCoverage:
    """Every row against every row, ``4 * n * n`` bytes.

    :param similarities: ``[n, n]`` float32, the kernel of each two rows.
    :param weights: ``[n]``, what covering each is worth.
    :param covered: ``[n]`` float32 in [0, 1], how well each is covered already.
    """

    def __init__(self, similarities: Floats, weights: Weights, covered: Floats) -> None:
        self._similarities, self._weights, self._covered = similarities, weights, covered.copy()

    def all_gains(self) -> Weights:
        """Work out every row's gain."""
        n = len(self._weights)
        blocks = [self.gains(np.arange(start, min(start + 256, n))) for start in range(0, n, 256)]
        return np.concatenate([np.empty(0), *blocks])

    def gains(self, rows: NDArray[np.int64]) -> Weights:
        """Work out some rows' gains."""
        more = self._similarities[rows] - self._covered
        gained: Weights = np.maximum(more, 0.0, out=more) @ self._weights
        return gained

    def add(self, row: int) -> None:
        """Choose a row."""
        np.maximum(self._covered, self._similarities[row], out=self._covered)


class SparseCoverage:
    """Each row covered by its nearest neighbours alone: what is farther would add little, and is counted as nothing.

    :param rows: ``[n, k]``, neighbours of each row, -1 where there is none; its own among them or not.
    :param similarities: ``[n, k]`` float32, their kernel.
    """

    def __init__(self, rows: NDArray[np.int32], similarities: Floats, weights: Weights, covered: Floats) -> None:
        n, k = rows.shape
        self._weights, self._covered = weights, covered.copy()
        # Turned round: by the row that covers, the rows that it covers.
        valid = np.flatnonzero((rows.ravel() >= 0) & (rows.ravel() != np.repeat(np.arange(n, dtype=np.int32), k)))
        covering = rows.ravel()[valid]
        order = valid[np.argsort(covering, kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(covering, minlength=n))])
        self._targets = (order // k).astype(np.int32)
        self._similarities = similarities.ravel()[order]

    def all_gains(self) -> Weights:
        """Work out every row's gain."""
        n = len(self._weights)
        own_gain = self._weights * (1.0 - self._covered)
        more = np.maximum(self._similarities - self._covered[self._targets], 0.0) * self._weights[self._targets]
        covering = np.repeat(np.arange(n, dtype=np.int32), np.diff(self._starts))
        return own_gain + np.bincount(covering, weights=more, minlength=n)

    def gains(self, rows: NDArray[np.int64]) -> Weights:
        """Work out some rows' gains."""
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


def covered_by(known: Floats, features: Floats, bandwidth: float) -> Floats:
    """Say how well rows are covered by what is known.

    :param known: ``[m, h]`` float32 of unit length; may be empty.
    :param features: ``[n, h]`` float32 of unit length.
    :return: ``[n]`` float32, the kernel with the nearest; 0 where nothing is known.
    """
    if not len(known):
        return np.zeros(len(features), dtype=np.float32)
    return kernel(find_nearest(known, features, 1)[0][:, 0], bandwidth)


def greedy(coverage: Coverage, rows: NDArray[np.int64], candidates: Candidates, budget: int) -> list[int]:
    """Choose by gain for each pair that has to be judged, until the budget is spent or all is covered.

    :param coverage: over the rows that may be chosen, numbered from 0.
    :param rows: rows of ``candidates`` that those stand for.
    :param budget: most pairs; the first that does not fit ends the choice.
    :return: rows of ``candidates``, in order of choice; of equals, the first.
    """
    if not len(rows):
        return []
    purse = Purse(candidates, budget)
    cost = candidates.cost[rows].astype(np.float64)
    worth = coverage.all_gains() / cost  # upper bounds: a gain can only fall
    fresh = np.ones(len(rows), dtype=np.bool_)
    floor = NOTHING * float(np.max(worth * cost))
    while True:
        best = int(np.argmax(worth))
        if worth[best] * cost[best] <= floor:
            return purse.chosen
        if not fresh[best]:
            stale = _largest(np.where(fresh, -np.inf, worth), REFRESHED)
            worth[stale] = coverage.gains(stale) / cost[stale]
            fresh[stale] = True
        elif not purse.has_room(int(rows[best])):
            worth[best] = -np.inf
        else:
            if not purse.take(int(rows[best])):
                return purse.chosen
            coverage.add(best)
            worth[best] = -np.inf
            fresh[:] = False


def _largest(values: Weights, count: int) -> NDArray[np.int64]:
    if len(values) > count:
        largest = np.argpartition(-values, count)[:count]
    else:
        largest = np.arange(len(values))
    return largest[np.isfinite(values[largest])]
