"""Figures by query of a model whose grades are calibrated on other queries."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darl_opensearch.stats.grades import ranked_probability_score
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.config import Config
from trainer.models.heads import Head
from trainer.stages.objective import predict
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5


@dataclass(frozen=True)
class QueryFigures:
    """Figures by query index.

    :param rps: mean ranked probability score of the query's pairs; lower is better.
    :param ndcg: queries without a relevant item are left out.
    """

    rps: Mapping[int, float]
    ndcg: Mapping[int, float]

    def gains_to(self, after: QueryFigures) -> Gains:
        """List the gains of the queries measured after, in their order; positive is better."""
        return Gains(
            [self.rps[query] - after.rps[query] for query in sorted(after.rps)],
            [after.ndcg[query] - self.ndcg[query] for query in sorted(after.ndcg)],
        )


@dataclass(frozen=True)
class Gains:
    """Gains of queries; positive is better."""

    rps: Sequence[float] = ()
    ndcg: Sequence[float] = ()

    def __add__(self, other: Gains) -> Gains:
        """Append the gains of other queries."""
        return Gains([*self.rps, *other.rps], [*self.ndcg, *other.ndcg])


@contextmanager
def use_one_thread() -> Iterator[None]:
    """Limit torch to one thread: for a dozen weights, a thread pool costs many times the work itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@use_one_thread()
def calibrate_grades(head: Head, pairs: Pairs, head_input: Tensor, *, prior: float = 0.01) -> None:
    """Calibrate the grades on the dev pairs; each kind of head decides which parameters that changes.

    :param head_input: ``[n, f]`` float.
    :param prior: weight of the present parameters, for grades that are rare in the dev pairs.
    """
    head.calibrate(head_input, pairs.grades, prior=prior)


def calibrate_afresh(head: Head, pairs: Pairs, head_input: Tensor) -> None:
    """Calibrate the grades whatever the thresholds were: those of an untrained head mean nothing.

    :param head_input: ``[n, f]`` float.
    """
    head.forget_scale(head_input, pairs.grades)
    calibrate_grades(head, pairs, head_input, prior=1.0 / max(len(pairs.grades), 1))


def measure_calibrated(
    head: Head, pairs: Pairs, head_input: Tensor, gains: Sequence[float], *, cutoff: int
) -> QueryFigures:
    """Measure a head on judged pairs, with the grades of each fold calibrated on the other folds.

    So the scores of two heads differ by what the heads know, not by how well they were calibrated, or whether at all.

    :param head: is not changed.
    :param head_input: ``[n, f]`` float.
    :param gains: of the grades.
    """
    probs = predict_calibrated(head, pairs, head_input)
    return measure_by_query(probs, predict(head, head_input).latent, *pairs.numpy(gains), cutoff=cutoff)


def predict_calibrated(head: Head, pairs: Pairs, head_input: Tensor) -> Floats:
    """Predict grade probabilities ``[n, k]`` of judged pairs, those of each fold of queries calibrated on the others.

    :param head: is not changed.
    :param head_input: ``[n, f]`` float.
    """
    probs = np.zeros((len(pairs.grades), head.k))
    fold_of = pairs.query_index % min(FOLDS, max(1, len(pairs.queries)))
    for fold in fold_of.unique().tolist():
        rows, others = (torch.nonzero(mask).squeeze(1) for mask in (fold_of == fold, fold_of != fold))
        calibrated = copy.deepcopy(head)
        if len(others):
            calibrate_afresh(calibrated, pairs.select(others), head_input[others])
        probs[rows.numpy()] = predict(calibrated, head_input[rows]).grade_probs
    return probs


def measure_current(features: Features, pairs: Pairs, config: Config) -> QueryFigures:
    """Measure the current model as :func:`measure_calibrated` does."""
    head_input = features.of(pairs).head_input
    return measure_calibrated(
        features.model.head, pairs, head_input, config.grades.scale.gains, cutoff=config.stages.cutoff
    )


def measure_held_out(
    head: Head, held_out: tuple[Pairs, Tensor], dev: tuple[Pairs, Tensor],
    gains: Sequence[float], *, cutoff: int,
) -> QueryFigures:  # fmt: skip
    """Measure a head on pairs that it has not learnt from, with its grades calibrated on the dev pairs.

    :param head: is not changed.
    :param gains: of the grades.
    """
    calibrated = copy.deepcopy(head)
    if len(dev[0].grades):
        calibrate_afresh(calibrated, *dev)
    pairs, head_input = held_out
    probs = predict(calibrated, head_input).grade_probs
    return measure_by_query(probs, predict(head, head_input).latent, *pairs.numpy(gains), cutoff=cutoff)


def measure_by_query(
    probs: Floats, score: Floats, grades: Ints, gain: Floats, query_index: Ints, *, cutoff: int
) -> QueryFigures:
    """Measure predictions.

    :param probs: ``[n, k]``.
    :param score: ``[n]``, orders the pairs of a query.
    :param grades: ``[n]``.
    :param gain: ``[n]``, of the grades.
    :param query_index: ``[n]``.
    """
    scores = ranked_probability_score(probs, grades)
    sums, counts = np.bincount(query_index, weights=scores), np.bincount(query_index)
    rps = {int(query): float(sums[query] / counts[query]) for query in np.flatnonzero(counts)}
    return QueryFigures(rps, ndcg_per_query(score, gain, query_index, cutoff=cutoff))
