"""Cover every corner: the farthest from known and chosen comes next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.cycle.selectors.registry import COMPARED
from trainer.dasa.neighbours import find_nearest
from trainer.dasa.purse import Purse
from trainer.dasa.registry import Candidates, Floats
from trainer.dasa.selectors.herding import Over, list_rows


@COMPARED.register("k_center", cite="Sener and Savarese 2018, arXiv:1708.00489, the greedy 2-approximation")
@dataclass(frozen=True, kw_only=True)
class KCenter:
    """Next the query that is farthest from all that are known or chosen, so that no query stays far from one."""

    over: Over = "flagged"

    def __call__(self, candidates: Candidates, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose.

        :param candidates: what there is to choose from.
        :param known: ``[m, h]`` float32 of unit length; when empty, the first choice is random.
        :param rng: of a first choice with nothing known.
        :return: rows; of the same seed, a smaller budget gives a prefix.
        """
        rows = list_rows(candidates, self.over)
        if not len(rows):
            return []
        features = candidates.features if len(rows) == len(candidates) else candidates.features[rows]
        if len(known):
            similarity = find_nearest(known, features, 1)[0][:, 0]
        else:
            similarity = np.zeros(len(rows), dtype=np.float32)
            similarity[rng.integers(len(rows))] = -2.0
        purse = Purse(candidates, budget)
        while np.isfinite(similarity[best := int(np.argmin(similarity))]):
            row = int(rows[best])
            if purse.has_room(row):
                if not purse.take(row):
                    break
                np.maximum(similarity, features @ features[best], out=similarity)
            similarity[best] = np.inf
        return purse.chosen
