"""The parameter ``over``: which candidates a selector may choose from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.dasa.registry import Candidates
from trainer.registry import Param

OVER = Param(
    kind=str,
    default="flagged",
    choices=("flagged", "all"),
    help="choose among the candidates that the detector flags, or among all",
)


def rows_over(candidates: Candidates, over: str) -> NDArray[np.int64]:
    """Find the rows that may be chosen.

    :param over: ``flagged`` or ``all``.
    :return: their rows, ascending.
    """
    return np.flatnonzero(candidates.flagged) if over == "flagged" else np.arange(len(candidates))


def descending(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Order by value.

    :param values: ``[n]``.
    :return: rows, the largest value first.
    """
    return np.lexsort((rng.random(len(values)), -values))
