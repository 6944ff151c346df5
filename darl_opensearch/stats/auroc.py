"""The area under the ROC curve, with an interval for pairs clustered by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darl_opensearch.stats.bootstrap import Floats, Interval, Resampled, draw_counts

_CELLS = 4_000_000  # pair weights computed at a time


@dataclass(frozen=True)
class Distances:
    """Detector distances of the pairs of some queries.

    :param distance: ``[n]``.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    """

    distance: Floats
    query_index: NDArray[np.int64]
    n_queries: int


def auroc_interval(
    inside: Distances, outside: Distances, *, draws: int, seeds: tuple[Sequence[int], Sequence[int]]
) -> Interval:
    """Compute the AUROC of distances; the queries of each side are resampled independently.

    :return: the area; nan bounds if either side has fewer than two queries.
    """
    rows = max(1, _CELLS // max(1, len(inside.distance) + len(outside.distance)))
    values = [np.zeros(0)]
    for blocks in zip(
        draw_counts(inside.n_queries, draws=draws, seed=seeds[0]),
        draw_counts(outside.n_queries, draws=draws, seed=seeds[1]),
        strict=True,
    ):
        for start in range(0, len(blocks[0]), rows):
            inside_counts, outside_counts = (counts[start : start + rows] for counts in blocks)
            weights = inside_counts[:, inside.query_index], outside_counts[:, outside.query_index]
            values.append(auroc(inside.distance, outside.distance, *weights))
    point = float(auroc(inside.distance, outside.distance))
    return Resampled(point, np.concatenate(values), min(inside.n_queries, outside.n_queries)).interval()


def auroc(inside: Floats, outside: Floats, inside_weight: ArrayLike = 1.0, outside_weight: ArrayLike = 1.0) -> Floats:
    """Probability that a value from outside is above one from inside; ties count half.

    :param inside: ``[n]``.
    :param outside: ``[m]``.
    :param inside_weight: ``[..., n]`` count of each value, per resample; or one number for all.
    :param outside_weight: ``[..., m]``.
    :return: ``[...]``; nan if a side is empty.
    """
    order = np.argsort(inside, kind="stable")
    left, right = (np.searchsorted(inside[order], outside, side) for side in ("left", "right"))
    ordered = np.broadcast_to(inside_weight, (*np.shape(inside_weight)[:-1], len(inside)))[..., order]
    weight = np.broadcast_to(outside_weight, (*np.shape(outside_weight)[:-1], len(outside)))
    below = np.concatenate([np.zeros((*ordered.shape[:-1], 1)), ordered.cumsum(-1)], axis=-1)
    wins = ((below[..., left] + below[..., right]) / 2 * weight).sum(-1)
    chances = below[..., -1] * weight.sum(-1)
    return np.where(chances > 0, wins / np.where(chances > 0, chances, 1.0), np.nan)
