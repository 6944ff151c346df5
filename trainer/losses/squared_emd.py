"""How far probability has to be carried to reach the grade."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.registries import GRADE_LOSSES, check_grades


@GRADE_LOSSES.register("squared_emd", cite="Hou et al. 2016, arXiv:1611.05916", head="nominal")
def squared_emd(raw: Tensor, grades: Tensor) -> Tensor:
    """Squared earth mover's distance between the predicted distribution and the grade.

    Hou, Yu and Samaras 2016, arXiv:1611.05916: the squared difference of the two cumulative distributions,
    summed over the cuts between grades. Two grades off costs more than one off, and no mistake more than
    ``k - 1``: a wrong judgment pulls less than under a likelihood.

    :param raw: ``[n, k]`` float, a logit for each grade.
    """
    n, k = raw.shape
    check_grades(grades, k)
    at_most = raw.softmax(dim=1).cumsum(dim=1)[:, : k - 1]  # the last is 1 for both
    wanted = (grades[:, None] <= torch.arange(k - 1, device=raw.device)).to(raw)
    return (at_most - wanted).square().sum() / max(n, 1)
