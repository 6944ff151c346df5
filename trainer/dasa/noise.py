"""Filters for automated requests, by their timing, and for noise, by look and isolation."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from trainer.dasa.neighbours import find_nearest
from trainer.dasa.registry import Floats

NEIGHBOUR = 5  # whose distance says how dense it is around a query
LEAST_ROWS = 30  # quartiles of fewer say nothing
EVEN_REQUESTS, EVEN_SPREAD = 20, 0.05  # so many requests with gaps this alike are a clock's

_RUN = re.compile(r"([^\W\d_])\1{4}")
_CODE = re.compile(r"://|<\s*/?\s*(script|img|a|iframe)\b|\bunion\s+select\b|\$\{|\.\./", re.IGNORECASE)


def is_gibberish(query: str) -> bool:
    """Whether a query has neither letter nor digit, one letter five times in a row, or looks like a URL or code.

    In doubt it is a query: new words are what selection looks for.
    """
    return not any(c.isalnum() for c in query) or bool(_RUN.search(query)) or bool(_CODE.search(query))


def is_even(count: int, mean_gap: float, mean_square_gap: float) -> bool:
    """Whether requests are evenly spaced: many, their gaps' standard deviation a small share of the mean."""
    variance = max(mean_square_gap - mean_gap**2, 0.0)
    return count >= EVEN_REQUESTS - 1 and mean_gap > 0 and variance**0.5 < EVEN_SPREAD * mean_gap


def in_sparse_region(features: Floats, known: Floats, fence: float) -> NDArray[np.bool_]:
    """Find isolated rows (Tukey's fences on the distance to the 5th nearest).

    A new kind of query comes with others like it, or near a known one; a typo does not.

    :param features: ``[n, h]`` float32 of unit length.
    :param known: ``[m, h]`` float32 of unit length; counts as neighbours, too.
    :param fence: interquartile ranges above the third quartile; 0: no row is isolated.
    :return: ``[n]``; none where there are too few to tell.
    """
    n = len(features)
    if not fence or n < LEAST_ROWS:
        return np.zeros(n, dtype=np.bool_)
    # Each is its own nearest.
    cosines = find_nearest(features, features, NEIGHBOUR + 1)[0][:, 1:]
    if len(known):
        cosines = np.concatenate([cosines, find_nearest(known, features, min(NEIGHBOUR, len(known)))[0]], axis=1)
        cosines = -np.sort(-cosines, axis=1)
    distance = np.sqrt(np.maximum(2.0 - 2.0 * cosines[:, NEIGHBOUR - 1], 0.0))
    low, high = np.quantile(distance, [0.25, 0.75])
    sparse: NDArray[np.bool_] = distance > high + fence * max(high - low, 1e-6)
    return sparse
