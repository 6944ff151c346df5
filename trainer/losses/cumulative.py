"""Proportional odds: ordered grades as intervals of one latent relevance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.losses.registries import GRADE_LOSSES, check_grades


@GRADE_LOSSES.register("cumulative", cite="McCullagh 1980, doi:10.1111/j.2517-6161.1980.tb01109.x", head="cumulative")
def cumulative(raw: Tensor, grades: Tensor) -> Tensor:
    """Negative log-likelihood of the grade under the proportional odds model.

    McCullagh 1980. ``raw[:, j] = s - theta_j`` with increasing thresholds, and
    ``P(grade > j) = sigmoid(raw[:, j])``. One latent ``s`` orders the items, the thresholds grade them: a
    later calibration of the thresholds cannot change the order.

    :param raw: ``[n, k-1]`` float, decreasing along each row.
    """
    n, cuts = raw.shape
    check_grades(grades, cuts + 1)
    edge = raw.new_full((n, 1), torch.inf)
    bounds = torch.cat([edge, raw, -edge], dim=1)
    upper = bounds.gather(1, grades[:, None]).squeeze(1)  # the logit of P(grade >= g)
    lower = bounds.gather(1, grades[:, None] + 1).squeeze(1)  # the logit of P(grade > g)
    return -log_sigmoid_difference(upper, lower).sum() / max(n, 1)


def log_sigmoid_difference(upper: Tensor, lower: Tensor) -> Tensor:
    """Compute ``log(sigmoid(upper) - sigmoid(lower))``, stable where both saturate.

    ``sigmoid(a) - sigmoid(b) = sigmoid(a) * sigmoid(-b) * (1 - exp(b - a))`` for ``a > b``.

    :param upper: ``[n]`` float, at least ``lower``; may be infinite.
    :param lower: ``[n]`` float; may be minus infinite.
    :return: ``[n]`` float, at most 0.
    """
    gap = (upper - lower).clamp_min(1e-6)
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-gap))
