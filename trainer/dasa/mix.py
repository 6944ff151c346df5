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


def spread_items(listed: list[Listed], count: int) -> list[Listed]:
    """Take items to test on, evenly over the ranks.

    A list of the serving model's best items would favour any other model: its mistakes at the top would be in the test,
    and the other's would not.

    :param count: number of items, at least 2.
    :return: up to ``count`` items at evenly spaced ranks, the first and the last included; of equal scores, OOD items
        rank first.
    """
    ranked = _rank(listed)
    if len(ranked) <= count:
        return ranked
    places = np.linspace(0, len(ranked) - 1, count).round().astype(int)  # distinct: they are more than 1 apart
    return [ranked[place] for place in places]


def lead_items(listed: list[Listed], count: int) -> list[Listed]:
    """Take items to train on, at ranks that grow geometrically: most relevant items and near misses lead the list.

    :param count: number of items, at least 2.
    :return: up to ``count`` items, the first and the last included; of equal scores, OOD items rank first.
    """
    ranked = _rank(listed)
    if len(ranked) <= count:
        return ranked
    places: list[int] = []
    for place in (np.geomspace(1, len(ranked), count) - 1).round().astype(int).tolist():
        places.append(max(place, places[-1] + 1) if places else place)
    return [ranked[place] for place in places]


def _rank(listed: list[Listed]) -> list[Listed]:
    return sorted(listed, key=lambda item: (-(item.score or 0.0), not item.is_ood, item.item_id))
