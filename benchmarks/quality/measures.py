"""Figures of a test part, and claims about paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.data import GAINS
from trainer.evaluate.bootstrap import Interval, bootstrap_mean
from trainer.evaluate.metrics import expected_calibration_error, macro_f1, ndcg_per_query, quadratic_kappa
from trainer.stages.data import Pairs
from trainer.stages.objective import Predictions

CUTOFF = 3
DRAWS = 10_000
PER_QUERY = ("ndcg@3", "rps")

Floats = NDArray[np.float64]


def ranked_probability_score(grade_probs: Floats, grades: NDArray[np.int64]) -> Floats:
    """How far the predicted distribution lies from the given grade, on the ordered scale; lower is better.

    Epstein 1969, doi:10.1175/1520-0450(1969)008<0985:ASSFPF>2.0.CO;2, over ``k - 1``: the mean squared
    difference of the cumulative distributions. A proper score, so it rewards calibration and sharpness both.

    :param grade_probs: ``[n, k]``.
    :param grades: ``[n]`` in ``0..k-1``.
    :return: ``[n]`` in [0, 1].
    """
    k = grade_probs.shape[1]
    given = grades[:, None] <= np.arange(k - 1)
    return np.asarray(np.square(grade_probs.cumsum(1)[:, :-1] - given).mean(1))


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
    predicted = predictions.grade_probs.argmax(1)
    ndcg = ndcg_per_query(predictions.latent, gain, query_index, cutoff=CUTOFF)
    errors = ranked_probability_score(predictions.grade_probs, grades)
    rps = {int(q): float(errors[query_index == q].mean()) for q in np.unique(query_index)}
    means = {
        "ndcg@3": float(np.mean(list(ndcg.values()))),
        "macro_f1": macro_f1(predicted, grades),
        "quadratic_kappa": quadratic_kappa(predicted, grades, len(GAINS)),
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


@dataclass(frozen=True)
class Claim:
    """A paired difference, ours minus theirs, with its uncertainty over queries.

    :param interval: mean and 95 % bootstrap interval.
    :param p: two-sided, of "no difference".
    """

    interval: Interval
    p: float


def paired(ours: Floats, theirs: Floats, *, draws: int = DRAWS, seed: int = 0) -> Claim:
    """Compare two methods query by query.

    The interval resamples queries (percentile bootstrap); the p-value flips signs of the differences at random
    (Fisher's randomisation test: Smucker et al. 2007, doi:10.1145/1321440.1321528).

    :param ours: ``[q]``, nan where a query has no value.
    :param theirs: ``[q]``, nan in the same places.
    :param draws: of either resampling.
    :param seed: of either.
    :return: the claim.
    """
    difference = ours - theirs
    difference = difference[~np.isnan(difference)]
    signs = np.random.default_rng([seed, 1]).integers(0, 2, size=(draws, len(difference)), dtype=np.int8) * 2 - 1
    flipped = np.abs(signs @ difference)
    extreme = int((flipped >= abs(difference.sum()) * (1 - 1e-12)).sum())
    return Claim(bootstrap_mean(difference, draws=draws, seed=seed), (extreme + 1) / (draws + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for being several (Holm 1979).

    :param p_values: by claim.
    :return: adjusted, in the same order.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


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
