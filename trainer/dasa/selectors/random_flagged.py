"""Uniform sampling of flagged candidates: what a selector must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.dasa.purse import take_in_order
from trainer.dasa.registry import SELECTORS, Candidates, Floats


@SELECTORS.register("random_flagged", cite="the detector alone, without choosing among flagged queries")
@dataclass(frozen=True, kw_only=True)
class RandomFlagged:
    """Random among the candidates that the detector flags."""

    def __call__(self, candidates: Candidates, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose; with the same seed, a smaller budget gives a prefix."""
        return take_in_order(rng.permutation(np.flatnonzero(candidates.flagged)), candidates, budget)
