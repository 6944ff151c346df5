"""Per-query lists of a batch of pairs, and the mean over them in rank and distillation losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def average_over_lists(
    of_lists: Callable[[Tensor, Tensor, Tensor], Tensor], score: Tensor, values: Tensor, query_index: Tensor
) -> Tensor:
    """Average a loss over the queries with two different values.

    The other queries never reach the loss, which may divide by differences.

    :param of_lists: from ``[q, m]`` scores, ``[q, m]`` values and the ``[q, m]`` mask of real items to ``[q]`` losses;
        cells outside the mask hold other queries' values and must not count.
    :param values: ``[n]`` float, gains or teacher scores.
    :return: ``[]`` float; 0, with a gradient of 0, if there is no such query.
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
    """Arrange the items of each query as a row, in groups of lists of similar length.

    Comparing all items of a list takes the square of the width: with one width for all, a single query with 500 items
    among 20,000 pairs would take gigabytes. Here the padding of a list is shorter than the list.

    :yield: ``[q, m]`` int64 positions in ``query_index``, and the ``[q, m]`` bool mask of real items.
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
    """Mask the real pairs of items in each list, ``[q, m, m]`` bool."""
    return valid[:, :, None] & valid[:, None, :]
