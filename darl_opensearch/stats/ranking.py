"""DCG and nDCG."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ndcg_per_query(
    score: NDArray[np.floating], gains: NDArray[np.floating], query_index: NDArray[np.int64], *, cutoff: int = 10
) -> dict[int, float]:
    """Normalised discounted cumulative gain of each query.

    Järvelin and Kekäläinen 2002, with discount ``log2(rank + 1)``. Ties keep the input order, as in OpenSearch's sort.
    Queries without any gain have no ideal order and are left out.

    :param score: ``[n]`` higher is better.
    :param gains: ``[n]`` at least 0.
    :param query_index: ``[n]`` query of each pair.
    :return: nDCG by query index.
    """
    values = {}
    for query in np.unique(query_index):
        rows = np.flatnonzero(query_index == query)
        ideal = dcg(np.sort(gains[rows])[::-1], cutoff)
        if ideal > 0:
            values[int(query)] = dcg(gains[rows][np.argsort(-score[rows], kind="stable")], cutoff) / ideal
    return values


def dcg(gains: ArrayLike, cutoff: int) -> float:
    """Discounted cumulative gain of the first ``cutoff`` ranks; ``gains`` best first."""
    top = np.asarray(gains, dtype=np.float64)[:cutoff]
    return float((top / np.log2(np.arange(2, 2 + len(top)))).sum())
