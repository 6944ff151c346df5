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
    # Lists side by side, padded: n x n masks over the whole batch would take gigabytes from 20,000 pairs.
    rows, valid = by_query(query_index)
    s, g = score[rows], gains[rows]
    better = (g[:, :, None] > g[:, None, :]) & valid[:, :, None] & valid[:, None, :]
    pairs = better.sum(dim=(1, 2))
    if not bool(pairs.any()):
        return score.sum() * 0.0
    loss = (g[:, :, None] - g[:, None, :]) * F.softplus(s[:, None, :] - s[:, :, None])
    per_query = torch.where(better, loss, torch.zeros_like(loss)).sum(dim=(1, 2))
    return (per_query / pairs.clamp_min(1)).sum() / (pairs > 0).sum()


def by_query(query_index: Tensor) -> tuple[Tensor, Tensor]:
    """Lay the pairs of each query out as a row.

    :param query_index: ``[n]`` int64, equal for items of one query.
    :return: ``[q, m]`` int64 places in ``query_index``, and ``[q, m]`` bool which of them are real.
    """
    if not len(query_index):
        return query_index.reshape(0, 0), query_index.reshape(0, 0).bool()
    order = query_index.argsort(stable=True)
    _, counts = torch.unique_consecutive(query_index[order], return_counts=True)
    columns = torch.arange(int(counts.max()), device=order.device)
    valid = columns[None, :] < counts[:, None]
    starts = counts.cumsum(0) - counts
    places = (starts[:, None] + columns[None, :]).clamp_max(len(order) - 1)
    return order[places], valid
