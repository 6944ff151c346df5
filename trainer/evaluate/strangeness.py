"""How well the OOD columns tell one part from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.evaluate.bootstrap import Interval
from trainer.evaluate.resample import Floats, Resampled, query_counts


@dataclass(frozen=True)
class Distances:
    """Detector distances of one part.

    :param distance: ``[n]``.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    """

    distance: Floats
    query_index: NDArray[np.int64]
    n_queries: int


def auroc(known: Distances, other: Distances, *, draws: int, seeds: tuple[Sequence[int], Sequence[int]]) -> Interval:
    """Chance that a pair of the other part lies farther away than a pair of the known one; ties count half.

    The interval resamples the queries of either part on their own: pairs of one query are not independent.

    :param known: pairs like those of the training.
    :param other: pairs of an OOD part.
    :param seeds: of the resampling of either part.
    :return: area under the ROC curve; nan bounds where either part has fewer than two queries.
    """
    distance = np.concatenate([known.distance, other.distance])
    order = np.argsort(distance, kind="stable")
    first = np.flatnonzero(np.diff(distance[order], prepend=-np.inf) > 0)  # where each run of ties begins
    is_other = order >= len(known.distance)
    rows = np.where(is_other, 0, order), np.where(is_other, order - len(known.distance), 0)
    of_known, of_other = known.query_index[rows[0]], other.query_index[rows[1]]

    def area(known_counts: Floats, other_counts: Floats) -> float:
        there = np.where(is_other, 0.0, known_counts[of_known])
        here = np.where(is_other, other_counts[of_other], 0.0)
        known_at, other_at = np.add.reduceat(there, first), np.add.reduceat(here, first)
        below = np.cumsum(known_at) - known_at
        total = known_at.sum() * other_at.sum()
        return float((other_at * (below + known_at / 2)).sum() / total) if total else float("nan")

    values = [
        area(known_counts, other_counts)
        for blocks in zip(
            query_counts(known.n_queries, draws=draws, seed=seeds[0]),
            query_counts(other.n_queries, draws=draws, seed=seeds[1]),
            strict=True,
        )
        for known_counts, other_counts in zip(*blocks, strict=True)
    ]
    point = area(np.ones(known.n_queries), np.ones(other.n_queries))
    return Resampled(point, np.array(values), min(known.n_queries, other.n_queries)).interval()
