"""Boundaries of several looks: published values, and simulated paths."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from darl_opensearch.stats.sequential import find_boundaries, find_chance, find_inflation, find_stops

HALF = 0.025
SHARES = [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("shares", "level", "expected"),
    [
        ([1.0], 0.025, [1.960]),
        ([0.5, 1.0], 0.025, [2.963, 1.969]),
        ([1 / 3, 2 / 3, 1.0], 0.025, [3.710, 2.511, 1.993]),
        # Lan and DeMets' O'Brien-Fleming type, as in the tables of Jennison and Turnbull 1999 and of Proschan et al.
        (SHARES, 0.025, [4.333, 2.963, 2.359, 2.014]),
        ([0.2, 0.4, 0.6, 0.8, 1.0], 0.025, [4.877, 3.357, 2.680, 2.290, 2.031]),
    ],
)
def test_published_boundaries(shares, level, expected):
    assert find_boundaries(shares, level) == pytest.approx(expected, abs=0.0015)


def test_what_is_spent_is_the_level():
    boundaries = find_boundaries([0.1, 0.3, 0.9, 1.0], HALF)
    stops = find_stops([0.1, 0.3, 0.9, 1.0], boundaries, 0.0)
    assert stops.power == pytest.approx(HALF, abs=1e-6) and stops.share == pytest.approx(1.0, abs=0.01)
    spent = [
        2 - 2 * NormalDist().cdf(NormalDist().inv_cdf(1 - HALF / 2) / math.sqrt(share)) for share in (0.1, 0.3, 0.9)
    ]
    assert np.cumsum(stops.above)[:3] == pytest.approx(spent, abs=1e-6)


@pytest.mark.parametrize("drift", [0.0, 1.5, 3.0])
def test_simulated_paths_stop_where_they_should(drift):
    rng, draws, least = np.random.default_rng(0), 200_000, 0.05
    boundaries = find_boundaries(SHARES, HALF)
    motion = np.cumsum(rng.normal(drift / 4, 0.5, size=(draws, 4)), axis=1)
    goes_on, above, seen = np.ones(draws, dtype=bool), [], np.ones(draws)
    for look, share in enumerate(SHARES):
        statistic = motion[:, look] / math.sqrt(share)
        up = goes_on & (statistic > boundaries[look])
        low = boundaries[-1] * math.sqrt(share) + NormalDist().inv_cdf(least) * math.sqrt(1 - share)
        down = goes_on & (statistic < low) if share < 1 else np.zeros(draws, dtype=bool)
        seen[up | down] = share
        above.append(up.mean())
        goes_on &= ~(up | down)
    found = find_stops(SHARES, boundaries, drift, least=least)
    assert found.above == pytest.approx(above, abs=0.004) and found.share == pytest.approx(seen.mean(), abs=0.004)


def test_the_chance_is_that_of_the_rest_if_it_is_like_what_was_seen():
    boundary, share = 2.0, 0.5
    assert find_chance(2.0 * math.sqrt(share), share, boundary) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    effect = rng.normal(1.7 / math.sqrt(share), 1 / math.sqrt(share), size=200_000)
    last = 1.7 * math.sqrt(share) + effect * (1 - share) + rng.normal(size=200_000) * math.sqrt(1 - share)
    assert find_chance(1.7, share, boundary) == pytest.approx((last > boundary).mean(), abs=0.005)
    assert (find_chance(2.1, 1.0, boundary), find_chance(1.9, 1.0, boundary)) == (1.0, 0.0)


def test_inflation_restores_the_power():
    assert find_inflation([1.0], HALF) == 1.0
    assert find_inflation(SHARES, HALF) == pytest.approx(1.016, abs=0.004)  # about 2 %, Jennison and Turnbull 1999
    inflation = find_inflation(SHARES, HALF, least=0.05)
    drift = (NormalDist().inv_cdf(1 - HALF) + NormalDist().inv_cdf(0.8)) * math.sqrt(inflation)
    stops = find_stops(SHARES, find_boundaries(SHARES, HALF), drift, least=0.05)
    assert stops.power == pytest.approx(0.8, abs=1e-3) and inflation > 1.03
