"""Squared earth mover's distance between prediction and grade."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.registries import GRADE_LOSSES, check_grades


@GRADE_LOSSES.register("squared_emd", cite="Hou et al. 2016, arXiv:1611.05916", head="nominal")
def squared_emd(raw: Tensor, grades: Tensor) -> Tensor:
    """Squared earth mover's distance between the predicted distribution and the grade.

    Hou et al. 2016, arXiv:1611.05916: the squared difference of the two cumulative distributions, summed over
    the cuts between grades. An error of two grades costs more than one of one grade, and at most ``k - 1``, so wrong
    judgments pull less than under a likelihood.

    :param raw: ``[n, k]`` float, a logit for each grade.
    """
    n, k = raw.shape
    check_grades(grades, k)
    at_most = raw.softmax(dim=1).cumsum(dim=1)[:, : k - 1]  # the last is 1 for both
    target = (grades[:, None] <= torch.arange(k - 1, device=raw.device)).to(raw)
    return (at_most - target).square().sum() / max(n, 1)
