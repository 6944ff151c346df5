"""The farthest from what is known first, however alike they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.cycle.selectors.registry import COMPARED, descending
from darl_opensearch.settings import setting
from trainer.dasa.neighbours import find_nearest
from trainer.dasa.purse import take_in_order
from trainer.dasa.registry import Candidates, Floats
from trainer.dasa.selectors.herding import Over, list_rows


@COMPARED.register("novelty", cite="the distance of Sun et al. 2022, arXiv:2204.06507, as an order of choice")
@dataclass(frozen=True, kw_only=True)
class Novelty:
    """Next the query that is farthest from its k-th nearest known one: no coverage, so noise comes first."""

    over: Over = "flagged"
    k: int = setting(1, "which nearest known query's distance is taken", least=1, most=1000)

    def __call__(self, candidates: Candidates, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose.

        :param candidates: what there is to choose from.
        :param known: ``[m, h]`` float32 of unit length; when empty, all are equally far.
        :return: rows; of the same seed, a smaller budget gives a prefix.
        """
        rows = list_rows(candidates, self.over)
        k = min(self.k, len(known))
        if k and len(rows):
            features = candidates.features if len(rows) == len(candidates) else candidates.features[rows]
            distance = -find_nearest(known, features, k)[0][:, k - 1].astype(np.float64)
        else:
            distance = np.zeros(len(rows))
        return take_in_order(rows[descending(distance, rng)], candidates, budget)
