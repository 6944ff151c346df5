"""What a selector is given, what it answers, and the list of all of them.

The unit of selection is a query with its items: a rank loss learns nothing from a lone pair. Costs are counted in
pairs, because that is what a judge is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.registry import Registry

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Candidates:
    """Queries with items that could be judged, ``n`` of them, as arrays.

    :param features: ``[n, h]`` float32 of unit length, what similarity is measured on.
    :param cost: ``[n]`` int64, pairs to be judged for each; at least 1.
    :param traffic: ``[n]`` float64, requests that each stands for; above 0.
    :param flagged: ``[n]`` bool, whether the detector calls it out of distribution.
    :param slices: ``n`` names of parts of traffic, ``""`` where there is none.
    :param caps: most pairs of a slice that may be judged, for the slices that are held back; a candidate that its
        slice has no room for is passed over.
    """

    features: Floats
    cost: NDArray[np.int64]
    traffic: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    slices: tuple[str, ...]
    caps: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cost)


class Selector(Protocol):
    """Chooses candidates, best first."""

    def __call__(self, candidates: Candidates, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose.

        :param known: ``[m, h]`` float32 of unit length, features of the queries that were trained on; may be empty.
        :param budget: most pairs that may be judged; the next one that does not fit ends the choice.
        :return: rows of ``candidates``, in the order in which they were chosen, none twice. A smaller budget gives
            a prefix of it wherever the method is greedy.
        """


SELECTORS: Registry[type[Selector]] = Registry("selector")
