"""The remaining budget: pairs in all, and pairs of each capped slice."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.dasa.registry import Candidates


class Purse:
    """Counts what was chosen against the budget and the slices' caps."""

    def __init__(self, candidates: Candidates, budget: int) -> None:
        self._cost, self._slices = candidates.cost, candidates.slices
        self._budget, self._room = budget, dict(candidates.caps)
        self.chosen: list[int] = []

    def has_room(self, row: int) -> bool:
        """Tell whether a candidate fits its slice's cap; once it does not, it never will."""
        room = self._room.get(self._slices[row])
        return room is None or int(self._cost[row]) <= room

    def take(self, row: int) -> bool:
        """Choose a candidate if the budget allows; False ends the selection."""
        cost = int(self._cost[row])
        if cost > self._budget:
            return False
        self._budget -= cost
        if (name := self._slices[row]) in self._room:
            self._room[name] -= cost
        self.chosen.append(int(row))
        return True


def take_in_order(order: Iterable[int], candidates: Candidates, budget: int) -> list[int]:
    """Choose candidates in a given order.

    :param order: rows of the candidates, best first, none twice.
    :param budget: maximum pairs; the first query that does not fit ends the selection.
    """
    purse = Purse(candidates, budget)
    for row in order:
        if purse.has_room(row) and not purse.take(row):
            break
    return purse.chosen
