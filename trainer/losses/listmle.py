"""ListMLE: the likelihood of a list's order."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.lists import average_over_lists, mask_pairs
from trainer.losses.registries import RANK_LOSSES


@RANK_LOSSES.register("listmle", cite="Xia et al. 2008, doi:10.1145/1390156.1390306 (ListMLE); ties: ours")
def listmle(score: Tensor, gains: Tensor, query_index: Tensor) -> Tensor:
    """Negative log-likelihood of the order by gain under the Plackett-Luce model, averaged over its choices.

    Xia et al. 2008: the best item is chosen among all, the next among the remaining ones, and so on. Items of equal
    gain have no order: here each is chosen among itself and the items of lower gain,
    ``-log(exp(s_i) / (exp(s_i) + sum over lower j of exp(s_j)))``, so that they never compete. Without ties
    that is the paper's likelihood; with ties it bounds from above its sum over all orders of the tied items (given
    the best lower item, tied items beat it independently of each other), and with two gains it is InfoNCE, each
    relevant item against all irrelevant ones. The paper sums the choices of a list; the mean keeps long lists from
    dominating short ones.
    """
    return average_over_lists(_of_lists, score, gains, query_index)


def _of_lists(s: Tensor, g: Tensor, valid: Tensor) -> Tensor:
    lower = (g[:, None, :] < g[:, :, None]) & mask_pairs(valid)
    itself = torch.eye(s.shape[1], dtype=torch.bool, device=s.device)
    # An item without lower ones is chosen among itself: 0.
    among = s[:, None, :].expand_as(lower).masked_fill(~(lower | itself), -torch.inf).logsumexp(dim=2)
    return (among - s).sum(dim=1) / lower.any(dim=2).sum(dim=1)
