"""Uniform sampling of candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.dasa.purse import take_in_order
from trainer.dasa.registry import SELECTORS, Candidates, Floats


@SELECTORS.register("random", cite="the sanity check of every comparison")
@dataclass(frozen=True, kw_only=True)
class Random:
    """Random among all candidates, in-distribution ones included."""

    def __call__(self, candidates: Candidates, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose; with the same seed, a smaller budget gives a prefix."""
        return take_in_order(rng.permutation(len(candidates)), candidates, budget)
