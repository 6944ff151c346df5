"""Within-query order from pairs of items whose gains differ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.losses.registries import RANK_LOSSES


@RANK_LOSSES.register(
    "pairwise", cite="Burges et al. 2005, doi:10.1145/1102351.1102363 (RankNet), weighted by gain gap"
)
def pairwise(score: Tensor, gains: Tensor, query_index: Tensor) -> Tensor:
    """Logistic loss on each pair of items of one query, weighted by how far their gains lie apart.

    Burges et al. 2005. Averaged over the pairs of a query first and over queries then: averaged per pair,
    a query with 45 items would drown fifteen with 3 (990 pairs against 3 each).

    :param score: ``[n]`` float, any increasing function of the model's score; the latent is best.
    :param gains: ``[n]`` float in [0, 1].
    :param query_index: ``[n]`` int64, equal for items of one query.
    :return: ``[]`` float; 0 when no query has two items of different gain.
    """
    better = (query_index[:, None] == query_index[None, :]) & (gains[:, None] > gains[None, :])
    high, low = better.nonzero(as_tuple=True)
    if high.numel() == 0:
        return score.sum() * 0.0
    loss = (gains[high] - gains[low]) * F.softplus(score[low] - score[high])
    queries, index = torch.unique(query_index[high], return_inverse=True)
    pairs = torch.zeros(len(queries), dtype=score.dtype, device=score.device)
    pairs.index_add_(0, index, torch.ones_like(loss))
    return (loss / pairs[index]).sum() / len(queries)
