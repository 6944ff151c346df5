"""DASA's selector: covers the flagged traffic, given the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.settings import Field, setting
from trainer.dasa.coverage import (
    Coverage,
    DenseCoverage,
    SparseCoverage,
    choose_bandwidth,
    choose_greedily,
    kernel,
    measure_coverage,
)
from trainer.dasa.neighbours import find_nearest
from trainer.dasa.registry import SELECTORS, Candidates, Floats

Over = Annotated[Literal["flagged", "all"], Field("choose among flagged candidates or all")]


@SELECTORS.register(
    "herding",
    cite="MaxHerding, Bae et al. 2024, arXiv:2407.12212; conditioned on the training set, over flagged queries, "
    "weighted by traffic, per pair: ours",
)
@dataclass(frozen=True, kw_only=True)
class Herding:
    """Next the query that covers most uncovered requests per pair to label.

    Coverage of a candidate is its radial basis kernel with the nearest known or chosen query; a query's gain is what it
    adds over all candidates, weighted by their traffic, over its cost. So an OOD query with many like it comes before
    an isolated one, and nothing near the training set is labelled again.
    """

    over: Over = "flagged"
    traffic: float = setting(
        0.5, "exponent of a query's traffic as its weight; 0: each query counts once", least=0, most=2
    )
    bandwidth: float = setting(
        0.0, "distance at which a query covers another by exp(-1/2); 0: the median distance to the k-th nearest",
        least=0, most=10,
    )  # fmt: skip
    k: int = setting(10, "k of that nearest neighbour", least=1, most=1000)
    exact: int = setting(
        8192, "maximum candidates for comparing all pairs, at 4 bytes each; beyond, only near neighbours", least=1
    )
    neighbours: int = setting(32, "nearest neighbours compared beyond `exact`", least=2, most=1024)

    def __call__(self, candidates: Candidates, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose deterministically, until the budget is spent or everything is covered."""
        rows = list_rows(candidates, self.over)
        if not len(rows):
            return []
        features = candidates.features if len(rows) == len(candidates) else candidates.features[rows]
        weights = candidates.traffic[rows] ** self.traffic
        make = self._dense if len(rows) <= self.exact else self._sparse
        return choose_greedily(make(features, weights, known), rows, candidates, budget)

    def _dense(self, features: Floats, weights: NDArray[np.float64], known: Floats) -> Coverage:
        cosines: Floats = features @ features.T
        np.fill_diagonal(cosines, 1.0)  # a row covers itself exactly, despite rounding
        k = min(self.k, len(features) - 1)  # rank 0 is the row itself, or its twin
        bandwidth = self.bandwidth or choose_bandwidth(_kth_largest(cosines, k) if k else np.empty(0, np.float32))
        return DenseCoverage(kernel(cosines, bandwidth), weights, measure_coverage(known, features, bandwidth))

    def _sparse(self, features: Floats, weights: NDArray[np.float64], known: Floats) -> Coverage:
        k = min(max(self.k, self.neighbours) + 1, len(features))
        cosines, rows = find_nearest(features, features, k)
        bandwidth = self.bandwidth or choose_bandwidth(cosines[:, min(self.k, k - 1)])
        width = min(self.neighbours + 1, k)
        similarities = kernel(cosines[:, :width], bandwidth)
        return SparseCoverage(rows[:, :width], similarities, weights, measure_coverage(known, features, bandwidth))


def list_rows(candidates: Candidates, over: str) -> NDArray[np.int64]:
    """List the rows that may be chosen, ascending."""
    return np.flatnonzero(candidates.flagged) if over == "flagged" else np.arange(len(candidates))


def _kth_largest(rows: Floats, k: int) -> Floats:
    """The k-th largest value of each row, counted from 0."""
    blocks = [-np.partition(-rows[start : start + 256], k, axis=1)[:, k] for start in range(0, len(rows), 256)]
    return np.concatenate(blocks)
