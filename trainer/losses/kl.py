"""Distillation of a teacher's distribution over a list."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.settings import Field
from trainer.losses.lists import average_over_lists
from trainer.losses.registries import DISTILLATION_LOSSES


@DISTILLATION_LOSSES.register(
    "kl",
    cite="Hinton et al. 2015, arXiv:1503.02531, over the items of a list as Cao et al. 2007, "
    "doi:10.1145/1273496.1273513 (ListNet)",
)
def kl(
    score: Tensor,
    teacher: Tensor,
    query_index: Tensor,
    *,
    temperature: Annotated[
        float, Field("divides both scores; the higher, the more the low-ranked items count", least=0.01)
    ] = 1.0,
) -> Tensor:
    """Kullback-Leibler divergence of the student's softmax over a query's items from the teacher's.

    Hinton et al. 2015, with the softmax over a list of Cao et al. 2007: ``T**2 * KL(teacher || student)``. The
    factor, theirs too, keeps the gradient's size when the temperature changes. An offset between the two scales has
    no effect, a factor does. Items that the teacher ties get equal shares; queries with equal teacher scores
    throughout are left out.

    :param teacher: ``[n]`` float, taken as constant, in the student's unit.
    """
    return average_over_lists(partial(_of_lists, temperature=temperature), score, teacher.detach(), query_index)


def _of_lists(s: Tensor, t: Tensor, valid: Tensor, *, temperature: float) -> Tensor:
    def log_share(values: Tensor) -> Tensor:
        return F.log_softmax((values / temperature).masked_fill(~valid, -torch.inf), dim=1).masked_fill(~valid, 0.0)

    target = log_share(t)
    terms = target.exp() * (target - log_share(s))  # 0 in the padding: both logarithms are 0 there
    return temperature**2 * terms.sum(dim=1)
