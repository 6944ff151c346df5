"""Filters for automated requests, by timing, and for noise, by form and isolation."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from trainer.dasa.neighbours import find_nearest
from trainer.dasa.registry import Floats

NEIGHBOUR = 5  # rank of the neighbour whose distance measures density
LEAST_ROWS = 30  # minimum rows for meaningful quartiles
EVEN_REQUESTS, EVEN_SPREAD = 20, 0.05  # minimum requests, and maximum relative spread of their gaps, for a timer

_RUN = re.compile(r"([^\W\d_])\1{4}")
_CODE = re.compile(r"://|<\s*/?\s*(script|img|a|iframe)\b|\bunion\s+select\b|\$\{|\.\./", re.IGNORECASE)


def is_gibberish(query: str) -> bool:
    """Whether a query has neither letter nor digit, one letter five times in a row, or looks like a URL or code.

    When in doubt it is a query: selection looks for new words.
    """
    return not any(c.isalnum() for c in query) or bool(_RUN.search(query)) or bool(_CODE.search(query))


def is_even(count: int, mean_gap: float, mean_square_gap: float) -> bool:
    """Whether requests are evenly spaced: many, their gaps' standard deviation a small share of the mean."""
    variance = max(mean_square_gap - mean_gap**2, 0.0)
    return count >= EVEN_REQUESTS - 1 and mean_gap > 0 and variance**0.5 < EVEN_SPREAD * mean_gap


def mark_isolated(features: Floats, known: Floats, fence: float) -> NDArray[np.bool_]:
    """Mark isolated rows (Tukey's fences on the distance to the 5th nearest).

    A new kind of query comes with others like it, or near a known one; a typo does not.

    :param features: ``[n, h]`` float32 of unit length.
    :param known: ``[m, h]`` float32 of unit length; further neighbours.
    :param fence: interquartile ranges above the third quartile; 0: no row is isolated.
    :return: ``[n]``; all false below 30 rows.
    """
    n = len(features)
    if not fence or n < LEAST_ROWS:
        return np.zeros(n, dtype=np.bool_)
    # Each row is its own nearest neighbour.
    cosines = find_nearest(features, features, NEIGHBOUR + 1)[0][:, 1:]
    if len(known):
        cosines = np.concatenate([cosines, find_nearest(known, features, min(NEIGHBOUR, len(known)))[0]], axis=1)
        cosines = -np.sort(-cosines, axis=1)
    distance = np.sqrt(np.maximum(2.0 - 2.0 * cosines[:, NEIGHBOUR - 1], 0.0))
    low, high = np.quantile(distance, [0.25, 0.75])
    isolated: NDArray[np.bool_] = distance > high + fence * max(high - low, 1e-6)
    return isolated
