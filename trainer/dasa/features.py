"""Features of a query with its items: one function for training queries and candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from darl_opensearch.bundle import Bundle
from trainer.dasa.registry import Floats

Request = tuple[str, Sequence[str]]
Embed = Callable[[Sequence[Request]], Floats]  # queries with items' texts to a row for each pair

TWO_HALVES = frozenset({"split"})  # backbones whose features are a query half beside an item half


def halves_of(bundle: Bundle) -> int:
    """Count the halves of a bundle's features.

    :return: 2 where query and item are read apart, else 1.
    """
    return 2 if bundle.card.backbone in TWO_HALVES else 1


def query_features(pairs: Floats, counts: Sequence[int], halves: int) -> Floats:
    """Put the features of each query's pairs together.

    Of two halves, the query's is one and the same in all its pairs; the items' are averaged. Both are brought to
    unit length and stand side by side, so that the cosine of two queries is the mean of the queries' cosine and of
    their items'. Of one half, the pairs are averaged.

    :param pairs: ``[p, h]`` float32, the pairs of a query one after the other.
    :param counts: pairs of each query, each at least 1; their sum is ``p``.
    :param halves: 1 or 2, the halves of ``h``.
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
