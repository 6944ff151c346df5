"""Which pairs go through the graph together.

Padding, not arithmetic, is what makes CPU reranking slow: a list padded to its longest pair spends three
times the work, sorted batches of a small token budget 5 % more than none. Small batches also stay in the
cache, and give each core something to do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def plan(lengths: Sequence[int], *, token_budget: int, pairs: int | None = None) -> list[NDArray[np.int64]]:
    """Group pairs of similar length.

    :param token_budget: most tokens of a batch, padding included; a longer pair is a batch of its own.
    :param pairs: most pairs of a batch, or None for no limit.
    :return: indices of each batch, every index once; the batches with the longest pairs come first, so
        that the cores finish together.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        width = max(1, lengths[order[start]])  # the longest of this batch: the rest are padded to it
        size = max(1, token_budget // width)
        size = min(size, pairs) if pairs else size
        batches.append(order[start : start + size])
        start += size
    return batches
