"""Focal loss: less weight on pairs that are graded well already, against overconfidence."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.settings import Field
from trainer.losses.registries import GRADE_LOSSES, check_grades


@GRADE_LOSSES.register(
    "focal",
    cite="Lin et al. 2017, arXiv:1708.02002; for calibration: Mukhoti et al. 2020, arXiv:2002.09437",
    head="nominal",
)
def focal(
    raw: Tensor,
    grades: Tensor,
    *,
    gamma: Annotated[float, Field("how fast the weight of well-graded pairs falls; 0 is cross_entropy", least=0)] = 2.0,
) -> Tensor:
    """Cross-entropy with less weight on pairs whose grade is probable already.

    Lin et al. 2017, arXiv:1708.02002: ``-(1 - p)**gamma * log(p)``, ``p`` the probability of the grade.
    Mukhoti et al. 2020, arXiv:2002.09437: from ``gamma`` 1 on it bounds, from above, cross-entropy less
    ``gamma`` times the entropy of the prediction; so it works against overconfidence.

    :param raw: ``[n, k]`` float, a logit for each grade.
    """
    n, k = raw.shape
    check_grades(grades, k)
    log_probs = F.log_softmax(raw, dim=1)
    right = F.one_hot(grades, k).bool()
    # log(1 - p) from the other grades: (1 - p)**gamma with gamma below 1 has an infinite slope where p rounds to 1.
    log_miss = log_probs.masked_fill(right, -torch.inf).logsumexp(dim=1)
    return -((gamma * log_miss).exp() * log_probs[right]).sum() / max(n, 1)
