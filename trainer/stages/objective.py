"""The training loss, and what a model says about a set of judged pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darl_opensearch.errors import UsageError
from darl_opensearch.stats.grades import confusion, expected_calibration_error, macro_f1, quadratic_kappa
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.config import Config, Loss
from trainer.losses import GRADE_LOSSES, RANK_LOSSES
from trainer.losses.registries import count_comparable
from trainer.models.heads import HEADS, Head
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs


@dataclass(frozen=True)
class Totals:
    """What a loss's terms are averaged over."""

    pairs: float
    queries: float


@dataclass(frozen=True)
class WeightedLoss:
    """One term of the objective.

    :param kind: ``grade`` or ``rank``: what it reads and what it is averaged over.
    """

    kind: str
    loss: Callable[..., Tensor]
    weight: float


@dataclass(frozen=True)
class Objective:
    """Weighted grade and rank terms + penalty on the head.

    :param terms: the grade term, the rank term, and whatever further ones there are.
    """

    terms: tuple[WeightedLoss, ...]
    config: Loss
    gains: tuple[float, ...]

    @classmethod
    def make(cls, config: Loss, gains: tuple[float, ...]) -> Objective:
        """Resolve the losses a configuration names.

        :param config: table ``[loss]``.
        :raises UsageError: for an unknown loss or parameter, or one that does not fit the grades.
        """
        terms = [
            _bind("grade", config.grade, config.grade_params, config.grade_weight, "grade_params", gains),
            _bind("rank", config.rank, config.rank_params, config.rank_weight, "rank_params", gains),
        ]
        for also in config.also:
            terms.append(_bind(also.kind, also.name, also.params, also.weight, f"also: {also.name}", gains))
            if also.kind == "grade" and (needs := GRADE_LOSSES[also.name].head) != GRADE_LOSSES[config.grade].head:
                raise UsageError(
                    f"[[loss.also]] {also.name} needs the head {needs!r}, but [loss] grade = {config.grade} needs "
                    f"{GRADE_LOSSES[config.grade].head!r}",
                    todo="a model has one head: choose grade losses that need the same one",
                )
        return cls(tuple(terms), config, gains)

    def __call__(
        self, head: Head, head_input: Tensor, grades: Tensor, query_index: Tensor, whole: Totals | None = None, *,
        share: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Loss of some pairs, or their contribution to that of a batch that holds them: the parts sum to the whole.

        :param head_input: ``[n, f]`` float.
        :param grades: ``[n]`` int64.
        :param query_index: ``[n]`` int64; a query's pairs are all here.
        :param whole: what the whole batch's terms are averaged over; None: these pairs are the whole.
        :param share: of the penalty, which belongs to no pair.
        :return: ``[]`` float.
        """
        here = self.totals(grades, query_index)
        whole = whole or here
        raw = head(head_input)
        loss = self.config.l2 * share * head.penalty()
        for term in self.terms:
            if term.weight and term.kind == "grade":
                weight = term.weight * here.pairs / max(whole.pairs, 1.0)
                loss = loss + weight * term.loss(raw, grades)
            elif term.weight:
                weight = term.weight * here.queries / max(whole.queries, 1.0)
                loss = loss + weight * term.loss(head.rank_score(raw), self.gain(grades), query_index)
        return loss

    def totals(self, grades: Tensor, query_index: Tensor) -> Totals:
        """Count what the terms are averaged over.

        :param grades: ``[n]`` int64.
        :param query_index: ``[n]`` int64.
        """
        return Totals(float(len(grades)), float(count_comparable(self.gain(grades), query_index)))

    def gain(self, grades: Tensor) -> Tensor:
        """Gains over the highest gain.

        :param grades: ``[n]`` int64.
        :return: ``[n]`` float in [0, 1].
        """
        table = torch.tensor(self.gains, dtype=torch.float32, device=grades.device)
        return table[grades] / table[-1]


def _bind(
    kind: str, name: str, params: Mapping[str, Any], weight: float, key: str, gains: tuple[float, ...]
) -> WeightedLoss:
    """Resolve a loss and try it: what depends on the number of grades, only the loss itself can say."""
    registry = GRADE_LOSSES if kind == "grade" else RANK_LOSSES
    make, values = registry.resolve(name, params)
    loss = partial(make, **values)
    one = torch.zeros(1, dtype=torch.int64)
    try:
        if kind == "grade":
            loss(HEADS[GRADE_LOSSES[name].head].make(1, gains)(torch.zeros(1, 1)), one)
        else:
            loss(torch.zeros(1), torch.zeros(1), one)
    except ValueError as err:
        raise UsageError(f"[loss] {key}: {err}", todo="correct it; [grades] has the scale") from err
    return WeightedLoss(kind, loss, weight)


@dataclass(frozen=True)
class Predictions:
    """A model's view of judged pairs.

    :param latent: ``[n]`` relevance without bounds; orders as the score does, without its rounding.
    :param grade_probs: ``[n, k]``.
    """

    latent: NDArray[np.float64]
    grade_probs: NDArray[np.float64]


@torch.no_grad()
def predict(head: Head, head_input: Tensor) -> Predictions:
    """Apply a head.

    :param head_input: ``[n, f]`` float.
    """
    raw = head(head_input)
    return Predictions(head.latent(head_input).double().numpy(), head.grade_probs(raw).double().numpy())


def measure_ndcg(features: Features, pairs: Pairs, config: Config) -> dict[int, float]:
    """NDCG of each judged query, by the model as it is.

    :return: by number of the query; queries without a relevant item have none.
    """
    latent = predict(features.model.head, features.of(pairs).head_input).latent
    _, gain, query_index = pairs.numpy(config.grades.scale.gains)
    return ndcg_per_query(latent, gain, query_index, cutoff=config.stages.cutoff)


def measure_pairs(features: Features, pairs: Pairs, config: Config) -> dict[str, Any]:
    """Ranking and grading figures of judged pairs, by the model as it is."""
    predictions, gains = predict(features.model.head, features.of(pairs).head_input), config.grades.scale.gains
    grades, gain, query_index = pairs.numpy(gains)
    table = confusion(grades, predictions.grade_probs.argmax(1), len(gains))
    values = list(ndcg_per_query(predictions.latent, gain, query_index, cutoff=config.stages.cutoff).values())
    return {
        f"ndcg@{config.stages.cutoff}": round(float(np.mean(values)), 5) if values else None,
        "macro_f1": round(float(macro_f1(table)), 5),
        "quadratic_kappa": round(float(quadratic_kappa(table)), 5),
        "ece": round(expected_calibration_error(predictions.grade_probs, grades), 5),
        "queries": len(values),
        "pairs": len(grades),
    }
