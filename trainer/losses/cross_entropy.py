"""Grades as unordered classes: the reference for ordinal losses."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from trainer.losses.registries import GRADE_LOSSES, check_grades


@GRADE_LOSSES.register("cross_entropy", cite="Bridle 1990, doi:10.1007/978-3-642-76153-9_28 (softmax)", head="nominal")
def cross_entropy(raw: Tensor, grades: Tensor) -> Tensor:
    """Negative log-likelihood of the grade under a softmax that knows no order of grades.

    Bridle 1990. A wrong grade costs the same whether it is next to the right one or at the other end.

    :param raw: ``[n, k]`` float, a logit for each grade.
    """
    n, k = raw.shape
    check_grades(grades, k)
    return F.cross_entropy(raw, grades, reduction="sum") / max(n, 1)
