"""The queries whose items the model itself tells apart most: what a rank loss learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.cycle.selectors.registry import COMPARED, Described, descending
from trainer.dasa.purse import take_in_order
from trainer.dasa.registry import Floats
from trainer.dasa.selectors.herding import Over, list_rows


@COMPARED.register(
    "contrast",
    cite="ours; after optimal design, where a comparison informs by the square of its features' difference "
    "(Atkinson and Donev 1992)",
)
@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Next the query whose items' scores spread widest.

    A rank loss learns from differences between items of one query, and a difference in a judgment tells the more of
    the weights, the farther apart the items' features lie. Items that all look alike cost as much and say little;
    so do those of a query without a meaning.
    """

    over: Over = "flagged"

    def __call__(self, candidates: Described, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose.

        :param candidates: what there is to choose from.
        :param known: not used.
        :return: rows; of the same seed, a smaller budget gives a prefix.
        """
        rows = list_rows(candidates, self.over)
        return take_in_order(rows[descending(candidates.contrast[rows], rng)], candidates, budget)
