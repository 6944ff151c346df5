"""Distillation of a teacher's score differences."""

from __future__ import annotations

from torch import Tensor

from trainer.losses.lists import average_over_lists
from trainer.losses.registries import DISTILLATION_LOSSES


@DISTILLATION_LOSSES.register("margin_mse", cite="Hofstätter et al. 2020, arXiv:2010.02666 (Margin-MSE)")
def margin_mse(score: Tensor, teacher: Tensor, query_index: Tensor) -> Tensor:
    """Squared error of the student's score differences against the teacher's, over all pairs of a query's items.

    Hofstätter et al. 2020, with all pairs in place of one relevant and one irrelevant item. Differences are invariant
    to an offset between the two scales, but the units must agree. With ``d = score - teacher`` the mean over the pairs
    is twice the sample variance of ``d`` in the list, so pairs need not be enumerated. Pairs that the teacher ties
    count, with a difference of 0; queries with equal teacher scores throughout do not.

    :param teacher: ``[n]`` float, taken as constant, in the student's unit.
    """
    return average_over_lists(_of_lists, score, teacher.detach(), query_index)


def _of_lists(s: Tensor, t: Tensor, valid: Tensor) -> Tensor:
    count = valid.sum(dim=1)
    off = (s - t).masked_fill(~valid, 0.0)
    centred = (off - (off.sum(dim=1) / count)[:, None]).masked_fill(~valid, 0.0)
    return 2.0 * centred.square().sum(dim=1) / (count - 1)
