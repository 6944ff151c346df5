"""Soft labels for ordinal grades (SORD)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.settings import Field
from trainer.losses.registries import GRADE_LOSSES, check_grades


@GRADE_LOSSES.register("sord", cite="Díaz and Marathe 2019, doi:10.1109/CVPR.2019.00487", head="nominal")
def sord(
    raw: Tensor,
    grades: Tensor,
    *,
    metric: Annotated[Literal["absolute", "squared"], Field("distance between two grades")] = "absolute",
    sharpness: Annotated[
        float, Field("factor of the distance; the higher, the closer to cross_entropy", least=0.01)
    ] = 1.0,
) -> Tensor:
    """Cross-entropy against soft labels that fall with the distance from the grade.

    Díaz and Marathe 2019: the label of grade ``i`` is ``softmax(-sharpness * distance(grade, i))``. The loss is
    lowest, at the labels' entropy, where the prediction equals them, so it never rewards certainty.

    :param raw: ``[n, k]`` float, a logit for each grade.
    """
    n, k = raw.shape
    check_grades(grades, k)
    apart = (torch.arange(k, device=raw.device)[None, :] - grades[:, None]).abs().to(raw)
    distance = apart.square() if metric == "squared" else apart
    labels = torch.softmax(-sharpness * distance, dim=1)
    return -(labels * F.log_softmax(raw, dim=1)).sum() / max(n, 1)
