"""Pairwise loss with a margin that grows with the gain gap."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.settings import Field
from trainer.losses.lists import average_over_lists, mask_pairs
from trainer.losses.registries import RANK_LOSSES


@RANK_LOSSES.register(
    "pairwise_margin",
    cite="Burges et al. 2005, doi:10.1145/1102351.1102363 (RankNet); margin in proportion to the gain gap: ours",
)
def pairwise_margin(
    score: Tensor,
    gains: Tensor,
    query_index: Tensor,
    *,
    margin: Annotated[float, Field("score margin for a gain gap of 1", least=0)] = 1.0,
    weight: Annotated[Literal["gap", "none"], Field("weight of each pair of items")] = "gap",
) -> Tensor:
    """Logistic loss on how far a pair's score difference falls short of a margin that grows with the gain gap.

    Burges et al. 2005; the margin is ours: ``softplus(margin * gap - (s_i - s_j))``, so that a strong item is kept
    farther from an irrelevant one than a weak item is. Averaged over the pairs of a query first, then over queries.
    With ``margin`` 0 and ``weight`` ``gap`` it is ``pairwise``.
    """
    return average_over_lists(partial(_of_lists, margin=margin, weight=weight), score, gains, query_index)


def _of_lists(s: Tensor, g: Tensor, valid: Tensor, *, margin: float, weight: str) -> Tensor:
    gap = g[:, :, None] - g[:, None, :]
    better = (gap > 0) & mask_pairs(valid)
    loss = F.softplus(margin * gap - (s[:, :, None] - s[:, None, :]))
    if weight == "gap":
        loss = gap * loss
    return loss.masked_fill(~better, 0.0).sum(dim=(1, 2)) / better.sum(dim=(1, 2))
