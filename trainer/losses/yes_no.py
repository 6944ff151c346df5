"""The baseline that graded losses are measured against: is this item relevant, yes or no?"""

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
    """Binary cross-entropy on "the grade reaches the threshold"; the finer grades are not seen.

    Nogueira and Cho 2019, arXiv:1901.04085. Only the threshold's own column of ``raw`` is trained; the
    others are set by the calibration, which every model gets.

    :param raw: ``[n, k-1]`` float, column ``j`` the logit of ``P(grade > j)``.
    """
    n, cuts = raw.shape
    check_grades(grades, cuts + 1)
    if not 1 <= threshold <= cuts:
        raise ValueError(f"threshold {threshold} is not in 1..{cuts}")
    yes = (grades >= threshold).to(raw)
    return F.binary_cross_entropy_with_logits(raw[:, threshold - 1], yes, reduction="sum") / max(n, 1)
