"""From a batch of pairs to the lists of its queries, and the mean that rank and distillation losses take."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def average_over_lists(
    of_lists: Callable[[Tensor, Tensor, Tensor], Tensor], score: Tensor, values: Tensor, query_index: Tensor
) -> Tensor:
    """Average what a loss says of each list over the queries that have two different values.

    The other queries never reach the loss: it may divide by what differs.

    :param of_lists: from ``[q, m]`` scores, ``[q, m]`` values and the ``[q, m]`` mask of real items to ``[q]``;
        what stands outside the mask is another query's and must not count.
    :param values: ``[n]`` float, gains or teacher scores.
    :return: ``[]`` float; 0, with a gradient of 0, when there is no such query.
    """
    total, queries = score[:0].sum(), 0
    for rows, valid in group_lists(query_index):
        low = values[rows].masked_fill(~valid, torch.inf).amin(dim=1)
        high = values[rows].masked_fill(~valid, -torch.inf).amax(dim=1)
        comparable = high > low
        rows, valid = rows[comparable], valid[comparable]
        if len(rows):
            total = total + of_lists(score[rows], values[rows], valid).sum()
            queries += len(rows)
    return total / max(queries, 1)


def group_lists(query_index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Lay the items of each query out as a row, lists of like length together.

    Comparing all items of a list takes the square of the width: one width for all would let a single query
    with 500 items take gigabytes from 20,000 pairs, as a mask over the whole batch would. Here no list is
    padded to twice its length.

    :yield: ``[q, m]`` int64 places in ``query_index``, and ``[q, m]`` bool which of them are real.
    """
    order = query_index.argsort(stable=True)
    _, counts = torch.unique_consecutive(query_index[order], return_counts=True)
    starts = counts.cumsum(0) - counts
    doubling = torch.bucketize(counts, 2 ** torch.arange(40, device=counts.device))  # 1, 2, 3-4, 5-8, ...
    for width in doubling.unique().tolist():
        start, count = starts[doubling == width], counts[doubling == width]
        columns = torch.arange(int(count.max()), device=order.device)
        places = (start[:, None] + columns[None, :]).clamp_max(len(order) - 1)
        yield order[places], columns[None, :] < count[:, None]


def mask_pairs(valid: Tensor) -> Tensor:
    """Which cells of the item-by-item table of each list are real.

    :return: ``[q, m, m]`` bool.
    """
    return valid[:, :, None] & valid[:, None, :]
