"""The queries whose items the model itself tells apart most: what a rank loss learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.dasa.purse import take_in_order
from trainer.dasa.registry import SELECTORS, Candidates, Floats
from trainer.dasa.selectors.over import OVER, descending, rows_over


@SELECTORS.register(
    "contrast",
    cite="ours; after optimal design, where a comparison informs by the square of its features' difference "
    "(Atkinson and Donev 1992)",
    params={"over": OVER},
)
@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Next the query whose items' scores spread widest.

    A rank loss learns from differences between items of one query, and a difference in a judgment tells the more of
    the weights, the farther apart the items' features lie. Items that all look alike cost as much and say little;
    so do those of a query without a meaning.

    :param over: ``flagged`` or ``all``.
    """

    over: str = "flagged"

    def __call__(self, candidates: Candidates, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose.

        :param candidates: what there is to choose from; where contrast is not known, all are equal.
        :param known: not used.
        :return: rows; of the same seed, a smaller budget gives a prefix.
        """
        rows = rows_over(candidates, self.over)
        contrast = candidates.contrast[rows] if len(candidates.contrast) else np.zeros(len(rows))
        return take_in_order(rows[descending(contrast, rng)], candidates, budget)
