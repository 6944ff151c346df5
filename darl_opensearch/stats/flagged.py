"""How wrong grades are where pairs are flagged as out of distribution, beside the other pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.scores import grade_of
from darl_opensearch.stats.bootstrap import Figure, Floats, ratio
from darl_opensearch.stats.grades import ranked_probability_score

FLAGGED_FIGURES = ("wrong_flagged", "wrong_other", "wrong_ratio", "rps_flagged", "rps_other")


def flagged_figures(
    grade_probs: Floats, grades: NDArray[np.int64], flagged: NDArray[np.bool_], query_index: NDArray[np.int64],
    n_queries: int,
) -> dict[str, Figure]:  # fmt: skip
    """Compare flagged pairs with the others, clustered by query.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` by the judges.
    :param flagged: ``[n]``.
    :param query_index: ``[n]`` in ``0..n_queries-1``.
    :return: ``wrong_flagged`` and ``wrong_other``, shares of pairs whose likeliest grade is not the judges', and
        ``wrong_ratio``, the first over the second; ``rps_flagged`` and ``rps_other``; nan without such pairs.
    """
    values = {
        "wrong": (grade_of(grade_probs) != grades).astype(np.float64),
        "rps": ranked_probability_score(grade_probs, grades),
    }
    figures = {}
    for name, value in values.items():
        both = sum_by_flag(value, flagged, query_index, n_queries)
        for side, sums in (("flagged", both[:, :2]), ("other", both[:, 2:])):
            figures[f"{name}_{side}"] = Figure(sums, ratio, sums[:, 1] > 0)
        if name == "wrong":
            figures["wrong_ratio"] = Figure(both, ratio_of_shares, both[:, 1] > 0)
    return {name: figures[name] for name in FLAGGED_FIGURES}


def sum_by_flag(values: Floats, flagged: NDArray[np.bool_], query_index: NDArray[np.int64], n_queries: int) -> Floats:
    """Sum values and count pairs by query, ``[n_queries, 4]``: both of the flagged pairs, then of the others."""
    terms = [term * side for side in (flagged, ~flagged) for term in (values, np.ones(len(values)))]
    return np.stack([np.bincount(query_index, term, minlength=n_queries) for term in terms], axis=1)


def ratio_of_shares(totals: Floats) -> Floats:
    """Divide the share of the first two totals by that of the last two, ``[..., 4]`` to ``[...]``."""
    return ratio(np.stack([ratio(totals[..., :2]), ratio(totals[..., 2:])], axis=-1))
