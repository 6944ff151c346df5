"""Near-duplicate queries count as one: labelled once, and in one arm only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.data.leakage import QUERY_SHINGLE, NearIndex


def words_of(key: str) -> str:
    """Bring a query to the form in which the order of its words does not count."""
    return " ".join(sorted(set(key.split())))


def find_representatives(
    keys: Sequence[str], requests: NDArray[np.int64], rows: Iterable[int], *, threshold: float, near_rows: int
) -> dict[int, int]:
    """Find the queries that are another one in nearly the same words.

    :param requests: ``[n]`` requests of each; of those that are one, the most requested stands for all.
    :param near_rows: rows up to which more than the same words in another order is looked for.
    :return: for each row that another stands for, that one.
    """
    ordered = sorted(rows, key=lambda row: (-int(requests[row]), keys[row]))
    first: dict[str, int] = {}
    stands: dict[int, int] = {}
    for row in ordered:
        if (representative := first.setdefault(words_of(keys[row]), row)) != row:
            stands[row] = representative
    if threshold < 1.0 and len(first) <= near_rows:
        index = NearIndex(QUERY_SHINGLE, threshold)
        for row in first.values():
            if similar := index.similar(keys[row]):
                stands[row] = max(similar, key=lambda pair: (pair[1], -pair[0]))[0]
            else:
                index.add(row, keys[row])
        stands = {row: stands.get(other, other) for row, other in stands.items()}
    return stands


def near_any(keys: Sequence[str], others: Iterable[str], threshold: float) -> NDArray[np.bool_]:
    """Say which queries are one of some others in nearly the same words."""
    same = {words_of(key) for key in others}
    if not same:
        return np.zeros(len(keys), dtype=np.bool_)
    if threshold == 1.0:
        return np.array([words_of(key) in same for key in keys], dtype=np.bool_)
    index = NearIndex(QUERY_SHINGLE, threshold)
    for number, key in enumerate(sorted(same)):
        index.add(number, key)
    vocabulary = {word for key in same for word in key.split()}

    def is_near(key: str) -> bool:
        words = set(key.split())
        # Of a set that is as similar as the threshold, so many words are shared at least: most queries end here.
        return len(words & vocabulary) >= threshold * len(words) and bool(index.similar(key))

    return np.array([words_of(key) in same or is_near(key) for key in keys], dtype=np.bool_)
