"""Features of a query with its items, computed alike for training queries and candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trainer.dasa.registry import Floats

Request = tuple[str, Sequence[str]]
Embed = Callable[[Sequence[Request]], Floats]  # queries with item texts to one row per pair

TWO_HALVES = frozenset({"split"})  # backbones whose features are a query half beside an item half


def average_pairs(pairs: Floats, counts: Sequence[int], halves: int) -> Floats:
    """Average the pair features of each query.

    With two halves, the query half is the same in all pairs and the item halves are averaged. Each half is scaled to
    unit length, so the cosine of two queries is the mean of the cosines of their halves.

    :param pairs: ``[p, h]`` float32, grouped by query.
    :param counts: pairs per query, each at least 1; their sum is ``p``.
    :param halves: number of halves in ``h``, 1 or 2.
    :return: ``[n, h]`` float32 of unit length.
    """
    if not len(counts):
        return np.empty((0, pairs.shape[1]), dtype=np.float32)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    means = (np.add.reduceat(pairs, starts, axis=0) / np.asarray(counts)[:, None]).astype(np.float32)
    return _unit(np.concatenate([_unit(half) for half in np.split(means, halves, axis=1)], axis=1))


def _unit(rows: Floats) -> Floats:
    length: Floats = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    scaled: Floats = (rows / length).astype(np.float32)
    return scaled
