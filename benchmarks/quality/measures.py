"""Figures of a test part, and claims about paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.data import GAINS
from darl_opensearch.stats.grades import (
    confusion,
    expected_calibration_error,
    macro_f1,
    quadratic_kappa,
    ranked_probability_score,
)
from darl_opensearch.stats.holm import holm
from darl_opensearch.stats.paired import DRAWS, Claim, compare_paired
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.stages.objective import Predictions
from trainer.training_data.pairs import Pairs

__all__ = [
    "CUTOFF", "DRAWS", "PER_QUERY", "Claim", "Figures", "claims_json", "figures", "over_splits", "compare_paired",
    "ranked_probability_score",
]  # fmt: skip

CUTOFF = 3
PER_QUERY = ("ndcg@3", "rps")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """What one model does on one test part.

    :param means: figures of the whole part.
    :param by_query: for each of ``PER_QUERY``, the value of each query that has one.
    """

    means: dict[str, float]
    by_query: dict[str, dict[int, float]]


def figures(predictions: Predictions, pairs: Pairs) -> Figures:
    """Measure one model on one test part.

    :param predictions: of the pairs.
    :param pairs: judged.
    :return: its figures.
    """
    grades, gain, query_index = pairs.numpy(GAINS)
    table = confusion(grades, predictions.grade_probs.argmax(1), len(GAINS))
    ndcg = ndcg_per_query(predictions.latent, gain, query_index, cutoff=CUTOFF)
    errors = ranked_probability_score(predictions.grade_probs, grades)
    rps = {int(q): float(errors[query_index == q].mean()) for q in np.unique(query_index)}
    means = {
        "ndcg@3": float(np.mean(list(ndcg.values()))),
        "macro_f1": float(macro_f1(table)),
        "quadratic_kappa": float(quadratic_kappa(table)),
        "ece": expected_calibration_error(predictions.grade_probs, grades),
        "rps": float(errors.mean()),
    }
    return Figures(means, {"ndcg@3": ndcg, "rps": rps})


def over_splits(splits: Sequence[Mapping[int, float]], n_queries: int) -> Floats:
    """Average each query over the splits that tested it.

    :param splits: value by query, for each split.
    :param n_queries: queries in all.
    :return: ``[n_queries]``, nan for a query that none tested.
    """
    total, count = np.zeros(n_queries), np.zeros(n_queries)
    for values in splits:
        rows = np.fromiter(values.keys(), dtype=np.int64, count=len(values))
        total[rows] += np.fromiter(values.values(), dtype=np.float64, count=len(values))
        count[rows] += 1
    mean = np.full(n_queries, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def claims_json(claims: Mapping[str, Claim]) -> dict[str, Any]:
    """Render a family of claims, adjusted together.

    :param claims: by name.
    :return: JSON-ready values.
    """
    adjusted = holm({name: claim.p for name, claim in claims.items()})
    return {
        name: {**claim.interval.to_json(), "p": round(claim.p, 5), "p_holm": round(adjusted[name], 5)}
        for name, claim in claims.items()
    }
