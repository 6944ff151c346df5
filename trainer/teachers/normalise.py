"""Normalising teacher scores for the distillation losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from darl_opensearch.errors import InputError

SMALLEST = 1e-6  # probabilities are clipped this far from 0 and 1 before the logit


def normalise_scores(scores: Sequence[float | None], how: str, *, where: str) -> list[float | None]:
    """Normalise the scores of one query.

    :param how: ``none``: unchanged; ``zscore``: mean 0 and standard deviation 1 over the query's items, or all 0 if
        they are equal; ``logit``: log-odds of a probability.
    :raises InputError: for the logit of a value outside [0, 1].
    """
    present = [value for value in scores if value is not None]
    if how == "none" or not present:
        return list(scores)
    if how == "logit":
        return [None if value is None else _logit(value, where) for value in scores]
    mean = math.fsum(present) / len(present)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in present) / len(present))
    return [None if value is None else (value - mean) / spread if spread > 0 else 0.0 for value in scores]


def _logit(value: float, where: str) -> float:
    if not 0.0 <= value <= 1.0:
        raise InputError(
            f"the score {value:g} is not a probability",
            where=where,
            todo='set [distill] normalise to "zscore", or to "none" for scores that are log-odds already',
        )
    inside = min(max(value, SMALLEST), 1.0 - SMALLEST)
    return math.log(inside) - math.log1p(-inside)
