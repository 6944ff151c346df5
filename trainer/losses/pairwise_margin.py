"""Within-query order with a distance to keep: the farther apart two gains, the farther apart the scores."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from trainer.losses.lists import both, mean_over_queries
from trainer.losses.registries import RANK_LOSSES
from trainer.registry import Param


@RANK_LOSSES.register(
    "pairwise_margin",
    cite="Burges et al. 2005, doi:10.1145/1102351.1102363 (RankNet); margin in proportion to the gain gap: ours",
    params={
        "margin": Param(kind=float, default=1.0, min=0.0, help="distance that scores keep for a gain gap of 1"),
        "weight": Param(kind=str, default="gap", choices=("gap", "none"), help="what each pair of items weighs"),
    },
)
def pairwise_margin(
    score: Tensor, gains: Tensor, query_index: Tensor, *, margin: float = 1.0, weight: str = "gap"
) -> Tensor:
    """Logistic loss on how far a pair's score difference falls short of a margin that grows with the gain gap.

    Burges et al. 2005; the margin is ours: ``softplus(margin * gap - (s_i - s_j))``, so that a strong item
    stands farther from an irrelevant one than a weak item does. Averaged over the pairs of a query first and
    over queries then. With ``margin`` 0 and ``weight`` ``gap`` it is ``pairwise``.

    :param score: ``[n]`` float, the head's latent.
    :param gains: ``[n]`` float in [0, 1].
    :param query_index: ``[n]`` int64, equal for items of one query.
    :param margin: at least 0, in units of the score.
    :param weight: ``gap`` weighs each pair by its gain gap, ``none`` all alike.
    :return: ``[]`` float, the mean over comparable queries; 0 when no query has two items of different gain.
    """
    return mean_over_queries(partial(_of_lists, margin=margin, weight=weight), score, gains, query_index)


def _of_lists(s: Tensor, g: Tensor, valid: Tensor, *, margin: float, weight: str) -> Tensor:
    gap = g[:, :, None] - g[:, None, :]
    better = (gap > 0) & both(valid)
    loss = F.softplus(margin * gap - (s[:, :, None] - s[:, None, :]))
    if weight == "gap":
        loss = gap * loss
    return loss.masked_fill(~better, 0.0).sum(dim=(1, 2)) / better.sum(dim=(1, 2))
