"""The training loss, and a model's predictions and metrics on judged pairs."""

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
    """Denominators of a loss's terms."""

    pairs: float
    queries: float


@dataclass(frozen=True)
class WeightedLoss:
    """One term of the objective.

    :param kind: ``grade`` or ``rank``.
    """

    kind: str
    loss: Callable[..., Tensor]
    weight: float


@dataclass(frozen=True)
class Objective:
    """Weighted grade and rank terms, plus a penalty on the head.

    :param terms: the grade term, the rank term, then further ones.
    """

    terms: tuple[WeightedLoss, ...]
    config: Loss
    gains: tuple[float, ...]

    @classmethod
    def make(cls, config: Loss, gains: tuple[float, ...]) -> Objective:
        """Resolve the losses of a configuration.

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
        """Compute the loss of some pairs, or their part of a whole batch's loss: the parts sum to the whole.

        :param head_input: ``[n, f]`` float.
        :param grades: ``[n]`` int64.
        :param query_index: ``[n]`` int64; all pairs of a query must be present.
        :param whole: denominators of the whole batch; None: these pairs are the whole.
        :param share: share of the penalty, which belongs to no pair.
        :return: ``[]`` float.
        """
        part = self.totals(grades, query_index)
        whole = whole or part
        raw = head(head_input)
        loss = self.config.l2 * share * head.penalty()
        for term in self.terms:
            if term.weight and term.kind == "grade":
                weight = term.weight * part.pairs / max(whole.pairs, 1.0)
                loss = loss + weight * term.loss(raw, grades)
            elif term.weight:
                weight = term.weight * part.queries / max(whole.queries, 1.0)
                loss = loss + weight * term.loss(head.rank_score(raw), self.gain(grades), query_index)
        return loss

    def totals(self, grades: Tensor, query_index: Tensor) -> Totals:
        """Count pairs and comparable queries."""
        return Totals(float(len(grades)), float(count_comparable(self.gain(grades), query_index)))

    def gain(self, grades: Tensor) -> Tensor:
        """Map grades to gains over the highest gain, ``[n]`` float in [0, 1]."""
        table = torch.tensor(self.gains, dtype=torch.float32, device=grades.device)
        return table[grades] / table[-1]


def _bind(
    kind: str, name: str, params: Mapping[str, Any], weight: float, key: str, gains: tuple[float, ...]
) -> WeightedLoss:
    """Resolve a loss and call it once, because only the loss itself can check its parameters against the grades."""
    registry = GRADE_LOSSES if kind == "grade" else RANK_LOSSES
    make, values = registry.resolve(name, params)
    loss = partial(make, **values)
    zero = torch.zeros(1, dtype=torch.int64)
    try:
        if kind == "grade":
            loss(HEADS[GRADE_LOSSES[name].head].make(1, gains)(torch.zeros(1, 1)), zero)
        else:
            loss(torch.zeros(1), torch.zeros(1), zero)
    except ValueError as err:
        raise UsageError(f"[loss] {key}: {err}", todo="correct it; [grades] has the scale") from err
    return WeightedLoss(kind, loss, weight)


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for judged pairs.

    :param latent: ``[n]`` unbounded relevance, in the order of the score but without its rounding.
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
    """Measure the current model's nDCG by query index; queries without a relevant item are left out."""
    latent = predict(features.model.head, features.of(pairs).head_input).latent
    _, gain, query_index = pairs.numpy(config.grades.scale.gains)
    return ndcg_per_query(latent, gain, query_index, cutoff=config.stages.cutoff)


def measure_pairs(features: Features, pairs: Pairs, config: Config) -> dict[str, Any]:
    """Measure the current model's ranking and grading metrics."""
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
