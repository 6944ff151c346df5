"""The items of a query that are labelled with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Listed:
    """An item of a query's list.

    :param score: the model's score; None: not scored by this model yet.
    :param records: ids of the pair's log records.
    """

    item_id: str
    text: str
    score: float | None = None
    grade_probs: tuple[float, ...] = ()
    ood_score: float = 0.0
    ood_distance: float = 0.0
    is_ood: bool = False
    records: tuple[str, ...] = ()


def mix_items(listed: list[Listed], count: int) -> list[Listed]:
    """Take items across the whole range of scores: a model learns most from high and low ranks together.

    :param count: number of items, at least 2.
    :return: up to ``count`` items at evenly spaced ranks, the first and the last included; of equal scores, OOD items
        rank first.
    """
    ranked = sorted(listed, key=lambda item: (-(item.score or 0.0), not item.is_ood, item.item_id))
    if len(ranked) <= count:
        return ranked
    places = np.linspace(0, len(ranked) - 1, count).round().astype(int)  # distinct: they are more than 1 apart
    return [ranked[place] for place in places]
