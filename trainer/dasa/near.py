"""Near-duplicate queries, which count as one: labelled once, and in one arm only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.io.progress import count_up
from trainer.data.leakage import QUERY_SHINGLE, NearIndex


def sort_words(key: str) -> str:
    """Normalise word order and repetition."""
    return " ".join(sorted(set(key.split())))


def find_representatives(
    keys: Sequence[str], requests: NDArray[np.int64], rows: Iterable[int], *, threshold: float, near_rows: int
) -> dict[int, int]:
    """Find near-duplicate queries; the most requested of a group represents it.

    :param requests: ``[n]`` requests per query.
    :param near_rows: maximum rows for the similarity search; beyond, only identical words count.
    :return: the representative of each row that is not its own.
    """
    ordered = sorted(rows, key=lambda row: (-int(requests[row]), keys[row]))
    first: dict[str, int] = {}
    representatives: dict[int, int] = {}
    for row in ordered:
        if (representative := first.setdefault(sort_words(keys[row]), row)) != row:
            representatives[row] = representative
    if threshold < 1.0 and len(first) <= near_rows:
        index = NearIndex(QUERY_SHINGLE, threshold)
        for row in count_up(first.values(), "comparing queries", len(first)):
            if similar := index.similar(keys[row]):
                representatives[row] = max(similar, key=lambda pair: (pair[1], -pair[0]))[0]
            else:
                index.add(row, keys[row])
        representatives = {row: representatives.get(other, other) for row, other in representatives.items()}
    return representatives


def mark_near(keys: Sequence[str], others: Iterable[str], threshold: float) -> NDArray[np.bool_]:
    """Mark the queries that are near-duplicates of any of some others."""
    same = {sort_words(key) for key in others}
    if not same:
        return np.zeros(len(keys), dtype=np.bool_)
    if threshold == 1.0:
        return np.array([sort_words(key) in same for key in keys], dtype=np.bool_)
    index = NearIndex(QUERY_SHINGLE, threshold)
    for number, key in enumerate(count_up(sorted(same), "indexing queries", len(same))):
        index.add(number, key)
    vocabulary = {word for key in same for word in key.split()}

    def is_near(key: str) -> bool:
        words = set(key.split())
        # A set as similar as the threshold shares at least this many words; most queries are ruled out here.
        return len(words & vocabulary) >= threshold * len(words) and bool(index.similar(key))

    counted = count_up(keys, "comparing queries", len(keys))
    return np.array([sort_words(key) in same or is_near(key) for key in counted], dtype=np.bool_)
