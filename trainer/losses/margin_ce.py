"""Logits may lie apart, but not farther than a margin."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from trainer.losses.registries import GRADE_LOSSES, check_grades
from trainer.registry import Param


@GRADE_LOSSES.register(
    "margin_ce",
    cite="Liu et al. 2022, arXiv:2111.15430 (MbLS)",
    needs="nominal",
    params={
        "margin": Param(kind=float, default=10.0, min=0.0, help="logit distance from the highest that costs nothing"),
        "penalty": Param(kind=float, default=0.1, min=0.0, help="cost of each unit beyond it; 0 is cross_entropy"),
    },
)
def margin_ce(raw: Tensor, grades: Tensor, *, margin: float = 10.0, penalty: float = 0.1) -> Tensor:
    """Cross-entropy plus a penalty on logits that lie farther below the highest than a margin.

    Liu et al. 2022, arXiv:2111.15430, margin-based label smoothing: ``penalty`` times the sum over grades of
    ``max(0, max(raw) - raw - margin)``. Label smoothing pulls all logits together for ever; this stops at the
    margin, where a model is sure enough. Margin and penalty default to the paper's; a margin of ``m`` lets the
    highest probability reach ``1 / (1 + (k-1) * exp(-m))`` for free.

    :param raw: ``[n, k]`` float, a logit for each grade.
    :param grades: ``[n]`` int64 in ``0..k-1``; anything else is a ValueError.
    :param margin: at least 0.
    :param penalty: at least 0.
    :return: ``[]`` float, the mean over pairs; 0 for an empty batch.
    """
    n, k = raw.shape
    check_grades(grades, k)
    below = raw.amax(dim=1, keepdim=True) - raw
    likelihood = F.cross_entropy(raw, grades, reduction="sum")
    return (likelihood + penalty * F.relu(below - margin).sum()) / max(n, 1)
