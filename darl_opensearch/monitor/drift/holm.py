"""Several tests at one level."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that one level holds for all of them together.

    Holm 1979, *Scandinavian Journal of Statistics* 6:65. Whatever the tests have to do with each other, the chance
    that any true null hypothesis has an adjusted p-value at or below a level is at most that level.

    :param p_values: of the tests.
    :return: adjusted, in the same order, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
