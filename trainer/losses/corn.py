"""CORN: conditional probabilities of each next grade."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.losses.registries import GRADE_LOSSES, check_grades


@GRADE_LOSSES.register("corn", cite="Shi, Cao and Raschka 2021, arXiv:2111.08851; a mean over pairs: ours", head="corn")
def corn(raw: Tensor, grades: Tensor) -> Tensor:
    """Binary cross-entropy of each step up the scale, on the pairs that reach the step.

    Shi, Cao and Raschka 2021, arXiv:2111.08851: column ``j`` learns ``P(grade > j | grade > j-1)`` from the
    pairs with ``grade > j-1`` only, so the products of the columns decrease along the scale by construction.

    The paper divides by the number of pairs summed over steps, so a pair's weight depends on the grades of its batch.
    Here a pair's steps are summed and pairs averaged: the exact negative log-likelihood of the grade,
    ``-log P(grade)``, whose batch mean is the mean of its parts.

    :param raw: ``[n, k-1]`` float, conditional logits.
    """
    n, steps = raw.shape
    check_grades(grades, steps + 1)
    step = torch.arange(steps, device=raw.device)[None, :]
    passed, reached = (grades[:, None] > step).to(raw), (grades[:, None] >= step).to(raw)
    return F.binary_cross_entropy_with_logits(raw, passed, weight=reached, reduction="sum") / max(n, 1)
