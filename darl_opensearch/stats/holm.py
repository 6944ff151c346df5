"""Adjustment of p-values for multiple tests."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Adjust p-values for the family-wise error rate.

    Holm 1979, *Scandinavian Journal of Statistics* 6:65. However the tests depend on each other, the probability that
    any true null hypothesis has an adjusted p-value at or below a level is at most that level.

    :param p_values: by test, in [0, 1].
    :return: adjusted p-values in the same order, at most 1.
    """
    adjusted: dict[Name, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
