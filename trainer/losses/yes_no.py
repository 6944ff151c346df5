"""Binary relevance: the baseline for graded losses."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.settings import Field
from trainer.losses.registries import GRADE_LOSSES, check_grades


@GRADE_LOSSES.register(
    "yes_no", cite="Nogueira and Cho 2019, arXiv:1901.04085 (pointwise yes/no reranking)", head="cumulative"
)
def yes_no(
    raw: Tensor, grades: Tensor, *, threshold: Annotated[int, Field("lowest grade that counts as yes", least=1)] = 1
) -> Tensor:
    """Binary cross-entropy on whether the grade reaches the threshold; finer grades are ignored.

    Nogueira and Cho 2019, arXiv:1901.04085. Only the threshold's column of ``raw`` is trained; the calibration, which
    every model gets, sets the others.

    :param raw: ``[n, k-1]`` float, column ``j`` the logit of ``P(grade > j)``.
    """
    n, cuts = raw.shape
    check_grades(grades, cuts + 1)
    if not 1 <= threshold <= cuts:
        raise ValueError(f"threshold {threshold} is not in 1..{cuts}")
    yes = (grades >= threshold).to(raw)
    return F.binary_cross_entropy_with_logits(raw[:, threshold - 1], yes, reduction="sum") / max(n, 1)
