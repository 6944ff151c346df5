"""How far grades and scores can be relied on as thresholds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.scores import grade_of
from darl_opensearch.stats.bootstrap import Figure, Floats, ratio

SCORES = (0.25, 0.5, 0.75)  # thresholds of the score that are measured


def grade_figures(
    grade_probs: Floats, grades: NDArray[np.int64], query_index: NDArray[np.int64], n_queries: int
) -> dict[int, dict[str, Figure]]:
    """Compute precision and recall of each grade as a threshold, clustered by query.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` by the judges.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    :return: for each grade but the lowest, of the pairs that are given it or a better one by the model or the judges:
        ``precision``, the share of the model's that are the judges' too, and ``recall``, that of the judges'.
    """
    predicted, found = grade_of(grade_probs), {}
    for grade in range(1, grade_probs.shape[1]):
        kept, good = predicted >= grade, grades >= grade
        found[grade] = {
            "precision": _share(kept & good, kept, query_index, n_queries),
            "recall": _share(kept & good, good, query_index, n_queries),
        }
    return found


def score_figures(
    score: Floats, gain: Floats, query_index: NDArray[np.int64], n_queries: int
) -> dict[float, dict[str, Figure]]:
    """Compare the scores that reach a threshold with what the judges gave, clustered by query.

    :param score: ``[n]`` in [0, 1].
    :param gain: ``[n]`` by the judges, over the highest gain.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    :return: for each of :data:`SCORES`: ``score`` and ``gain``, means of the pairs that reach it.
    """
    return {
        least: {
            name: _share(np.where(score >= least, value, 0.0), score >= least, query_index, n_queries)
            for name, value in (("score", score), ("gain", gain))
        }
        for least in SCORES
    }


def _share(values: NDArray[np.generic], among: NDArray[np.bool_], query_index: NDArray[np.int64], n: int) -> Figure:
    """Divide a sum of values by a number of pairs."""
    terms = (values.astype(np.float64), among.astype(np.float64))
    sums = np.stack([np.bincount(query_index, term, minlength=n) for term in terms], axis=1)
    return Figure(sums.astype(np.float64), ratio, sums[:, 1] > 0)
