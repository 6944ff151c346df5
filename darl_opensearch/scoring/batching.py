"""Batches of sequences of similar length.

A batch costs its sequences, each padded to the longest, and a little for being a pass of its own. On a CPU that little
is worth some eight tokens, so that batches are small: they pad little, and are no fewer than the cores. A GPU wants
few, large passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CPU_PASS_TOKENS = 8  # what a pass costs beside its tokens; 4 to 32 measured alike, in benchmarks/serving


def plan_batches(
    lengths: Sequence[int], *, token_budget: int, pairs: int | None = None, pass_tokens: int | None = None,
    threads: int = 1,
) -> list[NDArray[np.int64]]:  # fmt: skip
    """Group sequences of similar length.

    :param token_budget: maximum tokens per batch, including padding; a longer sequence gets its own batch.
    :param pairs: maximum sequences per batch, or None for no limit.
    :param pass_tokens: cost of a pass in tokens; batches then are those of the least cost, padding included. None: they
        are as large as the budget allows.
    :param threads: that work on the batches: none gets more than its share of the tokens, and a sequence.
    :return: indices of each batch; longest sequences first, so that cores finish together.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    widths = [max(1, lengths[place]) for place in order]
    if threads > 1:
        token_budget = min(token_budget, -(-sum(widths) // threads) + max(widths, default=0))
    most = [max(1, min(token_budget // width, pairs or len(order))) for width in widths]  # in a batch that begins here
    ends = _fill(most) if pass_tokens is None else _minimise(widths, most, pass_tokens)
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _fill(most: Sequence[int]) -> list[int]:
    """Return where each batch ends if it is as large as it may be."""
    ends = [0]
    while ends[-1] < len(most):
        ends.append(min(len(most), ends[-1] + most[ends[-1]]))
    return ends[1:]


def _minimise(widths: Sequence[int], most: Sequence[int], pass_tokens: int) -> list[int]:
    """Return where each batch ends if padded tokens and passes cost the least (dynamic programming, from the end)."""
    count = len(widths)
    costs, nexts = [0] * (count + 1), [0] * count
    for start in range(count - 1, -1, -1):
        last = min(count, start + most[start])
        costs[start], end = min(
            (pass_tokens + (end - start) * widths[start] + costs[end], -end) for end in range(start + 1, last + 1)
        )
        nexts[start] = -end
    ends = [0]
    while ends[-1] < count:
        ends.append(nexts[ends[-1]])
    return ends[1:]
