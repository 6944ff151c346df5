"""The training loss, and what a model says about a set of judged pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darl_opensearch.errors import UsageError
from trainer.config import Loss
from trainer.evaluate.metrics import expected_calibration_error, macro_f1, ndcg_per_query, quadratic_kappa
from trainer.losses import GRADE_LOSSES, RANK_LOSSES
from trainer.models.head import CumulativeHead
from trainer.stages.data import Pairs


@dataclass(frozen=True)
class Objective:
    """Grade term + weighted rank term + penalty on the head.

    :param grade_loss: registered grade loss with its parameters bound.
    :param rank_loss: registered rank loss.
    :param config: weights.
    :param gains: gain of each grade.
    """

    grade_loss: Callable[[Tensor, Tensor], Tensor]
    rank_loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    config: Loss
    gains: tuple[float, ...]

    @classmethod
    def make(cls, config: Loss, gains: tuple[float, ...]) -> Objective:
        """Resolve the losses a configuration names.

        :param config: table ``[loss]``.
        :param gains: gain of each grade.
        :return: the objective.
        :raises UsageError: for an unknown loss or parameter, or one that does not fit the grades.
        """
        grade, params = GRADE_LOSSES.resolve(config.grade, config.grade_params)
        rank, _ = RANK_LOSSES.resolve(config.rank, {})
        try:  # what depends on the number of grades, only the loss itself can say
            grade(torch.zeros(1, len(gains) - 1), torch.zeros(1, dtype=torch.int64), **params)
        except ValueError as err:
            raise UsageError(f"[loss] grade_params: {err}", todo="correct it; [grades] has the scale") from err
        return cls(partial(grade, **params), rank, config, gains)

    def __call__(self, head: CumulativeHead, features: Tensor, grades: Tensor, query_index: Tensor) -> Tensor:
        """Loss of some pairs.

        :param head: turns features into grades.
        :param features: ``[n, f]`` float.
        :param grades: ``[n]`` int64.
        :param query_index: ``[n]`` int64.
        :return: ``[]`` float.
        """
        latent = head.latent(features)
        loss = self.config.l2 * head.weight.square().sum()
        if self.config.grade_weight:
            raw = latent[:, None] - head.thresholds[None, :]
            loss = loss + self.config.grade_weight * self.grade_loss(raw, grades)
        if self.config.rank_weight:
            table = torch.tensor(self.gains, dtype=latent.dtype, device=latent.device)
            gain = table[grades] / table[-1]
            loss = loss + self.config.rank_weight * self.rank_loss(latent, gain, query_index)
        return loss


@dataclass(frozen=True)
class Predictions:
    """A model's view of judged pairs.

    :param latent: ``[n]`` relevance without bounds; orders as the score does, without its rounding.
    :param grade_probs: ``[n, k]``.
    """

    latent: NDArray[np.float64]
    grade_probs: NDArray[np.float64]


@torch.no_grad()
def predict(head: CumulativeHead, similarity: Tensor) -> Predictions:
    """Apply a head.

    :param head: the head.
    :param similarity: ``[n, f]`` features.
    :return: its predictions.
    """
    raw = head(similarity)
    return Predictions(head.latent(similarity).double().numpy(), head.grade_probs(raw).double().numpy())


def metrics(predictions: Predictions, pairs: Pairs, gains: Sequence[float], *, cutoff: int) -> dict[str, Any]:
    """Ranking and grading figures of judged pairs.

    :param predictions: of the pairs.
    :param pairs: judged.
    :param gains: gain of each grade.
    :param cutoff: ranks counted by nDCG.
    :return: JSON-ready figures.
    """
    grades, gain, query_index = pairs.numpy(gains)
    predicted = predictions.grade_probs.argmax(1)
    values = list(ndcg_per_query(predictions.latent, gain, query_index, cutoff=cutoff).values())
    return {
        f"ndcg@{cutoff}": round(float(np.mean(values)), 5) if values else None,
        "macro_f1": round(macro_f1(predicted, grades), 5),
        "quadratic_kappa": round(quadratic_kappa(predicted, grades, len(gains)), 5),
        "ece": round(expected_calibration_error(predictions.grade_probs, grades), 5),
        "queries": len(values),
        "pairs": len(grades),
    }
