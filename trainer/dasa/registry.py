"""The interface of selectors, and their registry.

The unit of selection is a query with its items, because a rank loss learns nothing from a single pair. Costs are
counted in pairs, because judges are paid by the pair.
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
    """``n`` queries with items that could be labelled.

    :param features: ``[n, h]`` float32 of unit length, for similarities.
    :param cost: ``[n]`` int64, pairs to label; at least 1.
    :param traffic: ``[n]`` float64, requests, those of near-duplicates included; above 0.
    :param flagged: ``[n]`` bool, whether the query is out of distribution.
    :param slices: ``n`` slice names, possibly ``""``.
    :param caps: maximum pairs by slice, for capped slices; candidates that exceed it are skipped.
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
        """Choose candidates.

        :param known: ``[m, h]`` float32 of unit length, features of the training queries; may be empty.
        :param budget: maximum pairs to label; the first candidate that does not fit ends the selection.
        :return: rows of ``candidates`` in order of choice, none twice. With greedy methods a smaller budget gives a
            prefix.
        """


SELECTORS: Registry[type[Selector]] = Registry("selector")
