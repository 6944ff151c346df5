"""What the model is least sure of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.cycle.selectors.registry import COMPARED, Described, descending
from trainer.dasa.purse import take_in_order
from trainer.dasa.registry import Floats
from trainer.dasa.selectors.herding import Over, list_rows


@COMPARED.register("uncertainty", cite="entropy sampling, Settles 2009, Active Learning Literature Survey, section 3.1")
@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Next the query whose items' grade_probs have the highest mean entropy."""

    over: Over = "flagged"

    def __call__(self, candidates: Described, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose.

        :param candidates: what there is to choose from.
        :param known: not used.
        :return: rows; of the same seed, a smaller budget gives a prefix.
        """
        rows = list_rows(candidates, self.over)
        return take_in_order(rows[descending(candidates.uncertainty[rows], rng)], candidates, budget)
