"""LambdaLoss: pairs of items weighted by the effect of their order on nDCG."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from darl_opensearch.settings import Field
from trainer.losses.lists import average_over_lists, mask_pairs
from trainer.losses.registries import RANK_LOSSES


@RANK_LOSSES.register("lambda", cite="Wang et al. 2018, doi:10.1145/3269206.3271784 (LambdaLoss, NDCG-Loss2++)")
def lambda_loss(
    score: Tensor,
    gains: Tensor,
    query_index: Tensor,
    *,
    sigma: Annotated[float, Field("steepness of the logistic loss", least=0.001)] = 1.0,
    mu: Annotated[float, Field("weight of NDCG-Loss2; 0 gives LambdaRank", least=0)] = 10.0,
    cutoff: Annotated[int, Field("rank cutoff, as in nDCG@10; 0: none", least=0)] = 0,
) -> Tensor:
    r"""Logistic loss on each pair of items, weighted by the effect of their order on nDCG.

    Wang et al. 2018, NDCG-Loss2++. With items at the ranks ``i`` and ``j`` of the current scores, gains ``G``
    over the ideal DCG and discounts ``D(r) = log2(1 + r)``, a pair with ``G_i > G_j`` costs

    ``(|1/D(i) - 1/D(j)| + mu * |1/D(|i-j|) - 1/D(|i-j|+1)|) * (G_i - G_j) * log2(1 + exp(-sigma * (s_i - s_j)))``

    and a query the sum of its pairs. The gradient treats ranks as constants. Gains are used as given, as in the nDCG
    for model selection; the paper has ``2**grade - 1``.

    Ours, where the paper is silent: items of equal score rank by ascending gain, so that the value does not depend
    on the order of the pairs; and with a ``cutoff``, ``1/D`` is 0 beyond it, and pairs with at least one item
    inside it count, so that good items below it learn to rise (others drop such pairs).
    """
    return average_over_lists(partial(_of_lists, sigma=sigma, mu=mu, cutoff=cutoff), score, gains, query_index)


def _of_lists(s: Tensor, g: Tensor, valid: Tensor, *, sigma: float, mu: float, cutoff: int) -> Tensor:
    s, g, valid = _ranked(s, g, valid)
    m = s.shape[1]
    inverse = 1.0 / torch.log2(torch.arange(2, m + 3, device=s.device, dtype=s.dtype))  # 1/D(1) to 1/D(m + 1)
    rank = torch.arange(m, device=s.device)
    apart = (rank[:, None] - rank[None, :]).abs()
    delta = (inverse[apart - 1] - inverse[apart]).masked_fill(apart == 0, 0.0)
    discount = inverse[:m]
    counts = mask_pairs(valid)
    if cutoff:
        inside = rank < cutoff
        discount = discount * inside
        counts = counts & (inside[:, None] | inside[None, :])
    rho = (discount[:, None] - discount[None, :]).abs()
    ideal = (g.masked_fill(~valid, 0.0).sort(dim=1, descending=True).values * discount).sum(dim=1)
    gap = g[:, :, None] - g[:, None, :]
    weight = (rho + mu * delta) * gap / ideal[:, None, None]
    loss = weight * F.softplus(-sigma * (s[:, :, None] - s[:, None, :])) / math.log(2)
    return loss.masked_fill(~((gap > 0) & counts), 0.0).sum(dim=(1, 2))


def _ranked(s: Tensor, g: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort each list by descending score, then ascending gain, with the padding last."""
    order = g.argsort(dim=1, stable=True)
    by_score = s.detach().masked_fill(~valid, -torch.inf).gather(1, order)
    order = order.gather(1, by_score.argsort(dim=1, descending=True, stable=True))
    return s.gather(1, order), g.gather(1, order), valid.gather(1, order)
