"""The registry of compared selectors, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.dasa import Candidates
from trainer.registry import Registry

COMPARED: Registry[type[Any]] = Registry("selector")


@dataclass(frozen=True, kw_only=True)
class Described(Candidates):
    """Candidates with what the model says about their items.

    :param distance: ``[n]`` float64, mean ``ood_distance``.
    :param uncertainty: ``[n]`` float64, mean entropy of ``grade_probs`` in nats.
    :param contrast: ``[n]`` float64, standard deviation of the scores.
    """

    distance: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    contrast: NDArray[np.float64]


def descending(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Order by value, largest first; ties are random."""
    return np.lexsort((rng.random(len(values)), -values))
