"""Which of a query's items are judged with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Listed:
    """An item of a query's list.

    :param score: the model's score; None: not scored by this model yet.
    :param ood_score: 1 minus the conformal p-value.
    :param records: ids of the log records that the pair was read from.
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
    """Take items from the whole range of scores: a model learns most from what it ranks high and what it ranks low.

    :param count: how many to take, at least 2.
    :return: those at evenly spaced places of the ranking, the first and the last included; all when there are no
        more. Of equal scores, what is OOD comes first.
    """
    ranked = sorted(listed, key=lambda item: (-(item.score or 0.0), not item.is_ood, item.item_id))
    if len(ranked) <= count:
        return ranked
    places = np.linspace(0, len(ranked) - 1, count).round().astype(int)  # distinct: they are more than 1 apart
    return [ranked[place] for place in places]
