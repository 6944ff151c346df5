"""What is left to spend: pairs in all, and pairs of each slice that is held back."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.dasa.registry import Candidates


class Purse:
    """Counts what was chosen against the budget and the slices' caps."""

    def __init__(self, candidates: Candidates, budget: int) -> None:
        self._cost, self._slices = candidates.cost, candidates.slices
        self._left, self._room = budget, dict(candidates.caps)
        self.chosen: list[int] = []

    def has_room(self, row: int) -> bool:
        """Ask whether a candidate's slice has room for it. What has none now never gets any."""
        room = self._room.get(self._slices[row])
        return room is None or int(self._cost[row]) <= room

    def take(self, row: int) -> bool:
        """Choose a candidate, if the budget is enough for it.

        :return: False when it is not: the choice ends there.
        """
        cost = int(self._cost[row])
        if cost > self._left:
            return False
        self._left -= cost
        if (name := self._slices[row]) in self._room:
            self._room[name] -= cost
        self.chosen.append(int(row))
        return True


def take_in_order(order: Iterable[int], candidates: Candidates, budget: int) -> list[int]:
    """Choose from the front of an order.

    :param order: rows of the candidates, best first, none twice.
    :param budget: most pairs; the first that does not fit ends the choice.
    """
    purse = Purse(candidates, budget)
    for row in order:
        if purse.has_room(row) and not purse.take(row):
            break
    return purse.chosen
