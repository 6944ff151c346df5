"""Selectors: laws over the product's and the benchmark's, herding against brute force, sparse against dense."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from benchmarks.cycle.selectors import COMPARED
from darl_opensearch.errors import UsageError
from tests.helpers.selectors import made, permuted, registry_of, select, unit
from trainer.dasa import SELECTORS, Candidates
from trainer.dasa.coverage import DenseCoverage, SparseCoverage, choose_bandwidth, kernel, measure_coverage
from trainer.dasa.neighbours import find_nearest

laws = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
NAMES = sorted({*SELECTORS, *COMPARED})
GREEDY = [name for name in NAMES if name != "typiclust"]  # its clusters depend on the budget


pools = st.integers(0, 40)
seeds = st.integers(0, 2**16)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_registered_has_a_source_a_summary_and_the_defaults_it_declares(name):
    entry = registry_of(name)[name]
    assert entry.cite and entry.summary.endswith(".")
    make, values = registry_of(name).resolve(name, {})
    assert dataclasses.asdict(make()) == values


@pytest.mark.parametrize("name", NAMES)
@laws
@given(n=pools, m=st.integers(0, 10), seed=seeds, budget=st.integers(0, 150), cap=st.none() | st.integers(0, 12))
def test_never_twice_never_over_budget_seeded(name, n, m, seed, budget, cap):
    caps = {} if cap is None else {"pet": cap}
    candidates, known = made(n, seed, caps=caps), unit(np.random.default_rng(seed + 1).normal(size=(m, 6)))
    chosen = select(name, candidates, known, budget, seed)
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(range(n))
    assert all(type(row) is int for row in chosen)
    assert candidates.cost[chosen].sum() <= budget
    assert cap is None or sum(candidates.cost[i] for i in chosen if candidates.slices[i] == "pet") <= cap
    if name != "random":
        assert candidates.flagged[chosen].all()
    assert select(name, candidates, known, budget, seed) == chosen


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_for_all_takes_all_that_may_be_taken(name):
    candidates = made(30, 3)
    every = set(range(30)) if name == "random" else set(np.flatnonzero(candidates.flagged).tolist())
    known = unit(np.eye(6))
    assert set(select(name, candidates, known, 1000)) == every


@pytest.mark.parametrize("name", GREEDY)
@laws
@given(n=pools, m=st.integers(0, 5), seed=seeds, budgets=st.tuples(st.integers(0, 80), st.integers(0, 80)))
def test_a_smaller_budget_gives_a_prefix(name, n, m, seed, budgets):
    candidates, known = made(n, seed, caps={"pet": 20}), unit(np.random.default_rng(seed + 1).normal(size=(m, 6)))
    fewer, more = (select(name, candidates, known, budget, seed) for budget in sorted(budgets))
    assert more[: len(fewer)] == fewer


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("random", "random_flagged")])
@laws
@given(n=st.integers(1, 40), seed=seeds, budget=st.integers(0, 80))
def test_the_order_of_candidates_is_no_signal(name, n, seed, budget):
    """Continuous features have no ties."""
    candidates, known = made(n, seed), unit(np.random.default_rng(seed + 1).normal(size=(3, 6)))
    order = np.random.default_rng(seed + 2).permutation(n)
    chosen = select(name, permuted(candidates, order), known, budget)
    assert [int(order[i]) for i in chosen] == select(name, candidates, known, budget)


@pytest.mark.parametrize("name", ["herding", "k_center", "novelty", "typiclust", "uncertainty"])
def test_over_all_may_take_what_is_not_flagged(name):
    candidates = dataclasses.replace(made(20, 5), flagged=np.zeros(20, dtype=bool))
    known = unit(np.eye(6))
    assert select(name, candidates, known, 1000) == []
    assert sorted(select(name, candidates, known, 1000, over="all")) == list(range(20))
    with pytest.raises(UsageError, match=f"{name}.over is 'some'. Choose flagged or all"):
        select(name, candidates, known, 10, over="some")


# ---- herding


def plain_gain(candidates: Candidates, known: np.ndarray, chosen: list[int], row: int, bandwidth: float, power: float):
    """The definition, in float64 and without any bookkeeping."""
    rows = np.flatnonzero(candidates.flagged)
    x = candidates.features.astype(float)

    def covered(by: np.ndarray) -> np.ndarray:
        if not len(by):
            return np.zeros(len(rows))
        squared = ((x[rows][:, None] - by[None]) ** 2).sum(axis=2)
        return np.exp(-squared / (2 * bandwidth**2)).max(axis=1)

    before = np.concatenate([known.astype(float), x[chosen]])
    after = np.concatenate([before, x[[row]]])
    return ((covered(after) - covered(before)) * candidates.traffic[rows] ** power).sum() / candidates.cost[row]


@laws
@given(n=st.integers(1, 12), m=st.integers(0, 3), seed=seeds, power=st.sampled_from([0.0, 0.5, 1.0]))
def test_herding_takes_the_largest_gain_a_pair_each_time(n, m, seed, power):
    candidates, known = made(n, seed), unit(np.random.default_rng(seed + 1).normal(size=(m, 6)))
    bandwidth = 0.8
    chosen = select("herding", candidates, known, 1000, bandwidth=bandwidth, traffic=power)
    for step, row in enumerate(chosen):
        left = [i for i in np.flatnonzero(candidates.flagged) if i not in chosen[:step]]
        gains = {i: plain_gain(candidates, known, chosen[:step], i, bandwidth, power) for i in left}
        assert_allclose(gains[row], max(gains.values()), rtol=1e-4, atol=1e-5)


@laws
@given(n=st.integers(4, 9), seed=seeds)
def test_herding_is_within_one_minus_one_over_e_of_the_best_set(n, seed):
    candidates = dataclasses.replace(made(n, seed), cost=np.ones(n, dtype=np.int64), flagged=np.ones(n, dtype=bool))
    none = np.empty((0, 6), dtype=np.float32)

    def worth(rows: tuple[int, ...]) -> float:
        gains = [plain_gain(candidates, none, list(rows[:i]), row, 0.7, 0.5) for i, row in enumerate(rows)]
        return sum(gains)

    chosen = tuple(select("herding", candidates, none, 3, bandwidth=0.7))
    best = max(worth(rows) for rows in itertools.combinations(range(n), 3))
    assert worth(chosen) >= (1 - 1 / np.e) * best - 1e-6


def test_herding_by_hand():
    """Two groups at right angles, one of them known; bandwidth such that a right angle is worth exp(-1)."""
    east, north, up = np.eye(3, dtype=np.float32)
    candidates = Candidates(
        features=np.stack([east, north, north, up]),
        cost=np.array([1, 2, 1, 1]),
        traffic=np.array([9.0, 4.0, 4.0, 9.0]),
        flagged=np.ones(4, dtype=bool),
        slices=("", "", "", ""),
    )
    # Gains: east 0. north (4 + 4)(1 - 1/e), for 2 pairs or for 1. up 9 (1 - 1/e) when traffic counts in full.
    known = east[None]
    assert select("herding", candidates, known, 9, bandwidth=1.0, traffic=1.0) == [3, 2]  # 1: covered by its twin
    assert select("herding", candidates, known, 9, bandwidth=1.0, traffic=0.5) == [2, 3]  # 2 + 2 against 3
    assert select("herding", candidates, known, 9, bandwidth=1.0, traffic=0.0) == [2, 3]  # 1 + 1 against 1
    similarities = kernel(candidates.features @ candidates.features.T, 1.0)
    coverage = DenseCoverage(similarities, candidates.traffic, measure_coverage(known, candidates.features, 1.0))
    e = np.exp(-1)
    assert_allclose(coverage.all_gains(), [0, 8 * (1 - e), 8 * (1 - e), 9 * (1 - e)], rtol=1e-6)
    coverage.add(3)
    assert_allclose(coverage.gains(np.array([3, 1])), [0, 8 * (1 - e)], rtol=1e-6)


def test_the_bandwidth_is_the_median_distance_to_the_kth_neighbour():
    angles = np.radians([0, 10, 30, 60])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    cosines, rows = find_nearest(features, features, 2)
    assert rows.tolist() == [[0, 1], [1, 0], [2, 1], [3, 2]]
    # Chords of 10, 10, 20 and 30 degrees; their median.
    assert_allclose(choose_bandwidth(cosines[:, 1]), np.sin(np.radians(5)) + np.sin(np.radians(10)), rtol=1e-4)
    assert choose_bandwidth(np.empty(0, dtype=np.float32)) == 1.0
    assert choose_bandwidth(np.ones(3, dtype=np.float32)) == 0.05
    assert_allclose(kernel(np.array([1.0, 0.5, 0.0]), 1.0), np.exp([0, -1 / 2, -1]), rtol=1e-6)


@laws
@given(n=st.integers(2, 40), m=st.integers(0, 4), seed=seeds)
def test_with_every_neighbour_the_sparse_kernel_is_the_dense_one(n, m, seed):
    candidates, known = made(n, seed), unit(np.random.default_rng(seed + 1).normal(size=(m, 6)))
    params = {"bandwidth": 0.8, "neighbours": 64}
    dense = select("herding", candidates, known, 60, **params)
    assert select("herding", candidates, known, 60, exact=1, **params) == dense


@laws
@given(n=st.integers(1, 30), k=st.integers(1, 6), seed=seeds)
def test_sparse_gains_are_those_of_a_kernel_with_holes(n, k, seed):
    rng = np.random.default_rng(seed)
    k = min(k, n)
    cosines, rows = find_nearest(features := unit(rng.normal(size=(n, 4))), features, k)
    rows = np.where(rng.random(rows.shape) < 0.1, -1, rows).astype(np.int32)  # as the approximate search leaves
    weights, covered = rng.random(n), rng.random(n).astype(np.float32)
    holes = np.eye(n, dtype=np.float32)
    for x in range(n):
        for s, cosine in zip(rows[x], cosines[x], strict=True):
            if s >= 0 and s != x:
                holes[s, x] = kernel(cosine, 0.9)
    coverage = SparseCoverage(rows, kernel(cosines, 0.9), weights, covered)
    for _ in range(3):
        expected = np.maximum(holes - covered, 0) @ weights
        assert_allclose(coverage.all_gains(), expected, rtol=1e-5, atol=1e-7)
        assert_allclose(coverage.gains(np.arange(n)), expected, rtol=1e-5, atol=1e-7)
        coverage.add(row := int(rng.integers(n)))
        covered = np.maximum(covered, holes[row])


def test_approximate_neighbours_are_mostly_the_exact_ones():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, 48))
    features = unit(centres[rng.integers(200, size=12_000)] + 0.5 * rng.normal(size=(12_000, 48)))
    queries = features[:300]
    exact_cosines, exact = find_nearest(features, queries, 10)
    cosines, rows = find_nearest(features, queries, 10, exact_products=0)
    found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, rows, strict=True)])
    assert found > 0.8
    assert (rows[:, 0] == np.arange(300)).all()
    assert (np.diff(cosines, axis=1) <= 0).all()
    own = np.einsum("nkh,nh->nk", features[rows], queries)
    assert_allclose(cosines, np.minimum(own, 1.0), atol=1e-6)  # exact for whatever was found


# ---- random_flagged


def test_random_flagged_has_equal_chances():
    candidates = dataclasses.replace(
        made(4, 0), flagged=np.array([True, True, False, True]), cost=np.ones(4, dtype=np.int64)
    )
    first = [select("random_flagged", candidates, np.empty((0, 6)), 1, seed)[0] for seed in range(3000)]
    counts = np.bincount(first, minlength=4)
    assert counts[2] == 0
    # Within 5 standard deviations of 1000 each.
    assert (abs(counts[[0, 1, 3]] - 1000) < 5 * np.sqrt(3000 * (1 / 3) * (2 / 3))).all()
