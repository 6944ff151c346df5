"""Pairwise loss on the items of a query."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from trainer.losses.lists import average_over_lists, mask_pairs
from trainer.losses.registries import RANK_LOSSES


@RANK_LOSSES.register(
    "pairwise", cite="Burges et al. 2005, doi:10.1145/1102351.1102363 (RankNet), weighted by gain gap"
)
def pairwise(score: Tensor, gains: Tensor, query_index: Tensor) -> Tensor:
    """Logistic loss on each pair of items of one query, weighted by how far their gains lie apart.

    Burges et al. 2005. Averaged over the pairs of a query first, then over queries: averaged per pair, a query with 45
    items would dominate fifteen with 3 (990 pairs against 3 each).

    :param score: ``[n]`` float, any increasing function of the model's score, preferably the latent.
    """
    return average_over_lists(_of_lists, score, gains, query_index)


def _of_lists(s: Tensor, g: Tensor, valid: Tensor) -> Tensor:
    gap = g[:, :, None] - g[:, None, :]
    better = (gap > 0) & mask_pairs(valid)
    loss = gap * F.softplus(s[:, None, :] - s[:, :, None])
    return loss.masked_fill(~better, 0.0).sum(dim=(1, 2)) / better.sum(dim=(1, 2))
